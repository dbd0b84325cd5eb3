//! Usage as providers send it.

use super::*;

fn usage(json: &str) -> Option<Usage> {
    read_answer(format!(r#"{{"choices":[],"usage":{json}}}"#).as_bytes(), 128_000).unwrap().usage
}

#[test]
fn usage_is_read_as_providers_write_it() {
    let plain = Usage { prompt_tokens: 9, completion_tokens: 20, cost: None };
    let cost = |nanos| Usage { cost: Some(Nanodollars(nanos)), ..plain };
    for (json, expected) in [
        // OpenAI, with details.
        (
            r#"{"prompt_tokens":9,"completion_tokens":20,"total_tokens":29,"prompt_tokens_details":{"cached_tokens":0}}"#,
            plain,
        ),
        // OpenRouter: cost as a number, small ones with an exponent.
        (r#"{"prompt_tokens":9,"completion_tokens":20,"cost":0.00001335}"#, cost(13_350)),
        (r#"{"prompt_tokens":9,"completion_tokens":20,"cost":1.335e-05,"is_byok":false}"#, cost(13_350)),
        (r#"{"prompt_tokens":9,"completion_tokens":20,"cost":0}"#, cost(0)),
        // Cost as a string; tokens as whole floats; another order; white space.
        (r#"{ "cost" : "0.15", "completion_tokens" : 20.0, "prompt_tokens" : 9 }"#, cost(150_000_000)),
        // A cost that is none leaves the tokens valid.
        (r#"{"prompt_tokens":9,"completion_tokens":20,"cost":-0.1}"#, plain),
        (r#"{"prompt_tokens":9,"completion_tokens":20,"cost":10000}"#, cost(10_000_000_000_000)),
        (r#"{"prompt_tokens":9,"completion_tokens":20,"cost":10000.01}"#, plain),
        (r#"{"prompt_tokens":9,"completion_tokens":20,"cost":null}"#, plain),
        (r#"{"prompt_tokens":9,"completion_tokens":20,"cost":{"total":1}}"#, plain),
    ] {
        assert_eq!(usage(json), Some(expected), "{json}");
    }
}

#[test]
fn usage_that_is_negative_absurd_or_no_number_is_ignored() {
    for json in [
        r#"{"prompt_tokens":-1,"completion_tokens":20}"#,
        r#"{"prompt_tokens":9,"completion_tokens":128001}"#,
        r#"{"prompt_tokens":2147483648,"completion_tokens":20}"#,
        r#"{"prompt_tokens":99999999999999999999,"completion_tokens":20}"#,
        r#"{"prompt_tokens":9.5,"completion_tokens":20}"#,
        r#"{"prompt_tokens":"9","completion_tokens":20}"#,
        r#"{"prompt_tokens":null,"completion_tokens":20}"#,
        r#"{"prompt_tokens":9}"#,
        r#"{}"#,
        r#""none""#,
        "[9,20]",
        "12",
        "null",
    ] {
        assert_eq!(usage(json), None, "{json}");
    }
    assert_eq!(believable_tokens(None, 1), 2_147_483_647);
    assert_eq!(believable_tokens(Some(1000), 3), 3000);
    assert_eq!(believable_tokens(Some(u32::MAX), u32::MAX), 2_147_483_647);
}

#[test]
fn a_whole_answer_is_read() {
    let json = br#"{"id":"chatcmpl-1","object":"chat.completion","choices":[
        {"index":0,"message":{"role":"assistant","content":"Hello, \"you\"","refusal":null},"finish_reason":"stop"},
        {"index":1,"message":{"role":"assistant","content":null,"tool_calls":[{"id":"call_1","type":"function",
            "function":{"name":"now","arguments":"{}"}}]},"finish_reason":"tool_calls"}],
        "usage":{"prompt_tokens":9,"completion_tokens":20,"total_tokens":29}}"#;
    let answer = read_answer(json, 128_000).unwrap();
    let usage = Some(Usage { prompt_tokens: 9, completion_tokens: 20, cost: None });
    assert_eq!(
        answer,
        Answer { usage, has_usage: true, error: false, choices: 2, broken: 0, finished: 0b11, content_bytes: 12 + 2 }
    );
    assert!(read_answer(br#"{"error":{"message":"no"}}"#, 1).unwrap().error);
    for none in ["null", r#""""#, "false"] {
        assert!(!read_answer(format!(r#"{{"error":{none},"choices":null}}"#).as_bytes(), 1).unwrap().error, "{none}");
    }
    let finished = |json: &str| read_answer(json.as_bytes(), 1).unwrap().finished;
    assert_eq!(finished(r#"{"choices":[{"finish_reason":"error"},{"finish_reason":""}]}"#), 0);
    assert_eq!(finished(r#"{"choices":[{"finish_reason":"stop"}]}"#), 1);
    assert_eq!(finished(r#"{"choices":[{"index":4000000000,"finish_reason":"stop"}]}"#), 1 << 127);
    for nonsense in ["", "<html>", "[]", "null", r#"{"choices":1}"#, r#"{"choices":[]"#, "\u{0}"] {
        assert_eq!(read_answer(nonsense.as_bytes(), 1), None, "{nonsense}");
    }
}

#[test]
fn text_is_counted_wherever_models_write_it() {
    for (json, bytes) in [
        (r#"{"content":"Hello"}"#, 5),
        (r#"{"role":"assistant","content":""}"#, 0),
        (r#"{"content":null}"#, 0),
        (r#"{"content":"a\"b\\"}"#, 4),
        (r#"{"content":"\u0041\u00e9\u4e2d\ud83d\ude00\n"}"#, 1 + 2 + 3 + 4 + 1),
        (r#"{"content":"\u12"}"#, 3),
        (r#"{ "content" : "héé" }"#, 5),
        (r#"{"content":"","reasoning":"thin","reasoning_content":"thin","reasoning_details":[{"text":"thin"}]}"#, 4),
        (r#"{"tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":"{\"a\":1}"}}]}"#, 7),
        (r#"{"refusal":"I can't"}"#, 7),
        (r#"{"content":[{"type":"text","text":"abc"},{"type":"text","text":"de"}],"text":"no"}"#, 5),
        (r#"{"content":[{"type":"thinking","thinking":[{"type":"text","text":"abc"}]},{"thinking":"de"}]}"#, 5),
        (r#"{"content":["a",{"type":"text","text":"b"}]}"#, 2),
        (r#"{"reasoning_details":[{"type":"reasoning.text","text":"abc"},{"summary":"de"}]}"#, 5),
        (r#"{"reasoning":"longer","reasoning_details":[{"text":"abc"}]}"#, 6),
        (r#"{"audio":{"id":"a","data":"AAAA","transcript":"abc"}}"#, 3),
        (r#"{"content":"ab","annotations":[{"url_citation":{"content":"long","title":"t"}}],"refusal":"c"}"#, 3),
        (r#"{"annotations":[],"content":"ab"}"#, 2),
        (r#"{"content":null,"tool_calls":[{"function":{"arguments":"ab","text":"no"}}]}"#, 2),
        (r#"{"content":"cut"#, 2),
        ("{}", 0),
        ("", 0),
    ] {
        assert_eq!(text(json.as_bytes()).bytes, bytes, "{json}");
    }
    assert_eq!(text(br#"{"content":"x"},"content":"more"}"#), Text { bytes: 1, object_len: 15 });
}

#[test]
fn estimates_round_up_and_have_a_ceiling() {
    assert_eq!(estimate_prompt(0, None), 0);
    assert_eq!(estimate_prompt(1, None), 1);
    assert_eq!(estimate_prompt(401, Some(100)), 100);
    assert_eq!(estimate_prompt(u64::MAX, None), MAX_TOKENS);
    assert_eq!(estimate_completion(20, 79), 20);
    assert_eq!(estimate_completion(20, 81), 21);
    assert_eq!(estimate_completion(u64::MAX, 0), MAX_TOKENS);
}

#[test]
fn of_a_key_that_is_there_twice_the_last_value_counts() {
    let twice = |json: &[u8]| read_answer(json, 1000).unwrap();
    let usage = |prompt_tokens| Some(Usage { prompt_tokens, completion_tokens: 2, cost: None });
    let first = br#"{"usage":{"prompt_tokens":1,"completion_tokens":2},"choices":[{}],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#;
    assert_eq!((twice(first).usage, twice(first).choices), (usage(3), 1));
    assert_eq!(twice(br#"{"choices":[{}],"choices":[{"finish_reason":"stop"},{}]}"#).choices, 2);
    assert!(twice(br#"{"error":null,"choices":[],"error":{}}"#).error);
}

#[test]
fn choices_that_broke_off_are_told() {
    let broken = |json: &[u8]| {
        let answer = read_answer(json, 1000).unwrap();
        (answer.choices, answer.broken, answer.finished)
    };
    assert_eq!(broken(br#"{"choices":[{"finish_reason":"error"}]}"#), (1, 1, 0));
    assert_eq!(broken(br#"{"choices":[{"finish_reason":"error","error":{"code":502}}]}"#), (1, 1, 0));
    assert_eq!(
        broken(br#"{"choices":[{"finish_reason":"stop","error":{"code":502}},{"finish_reason":"stop"}]}"#),
        (2, 1, 1)
    );
    assert_eq!(broken(br#"{"choices":[{"finish_reason":"length","error":null},{"finish_reason":null}]}"#), (2, 0, 1));
}
