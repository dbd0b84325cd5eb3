//! Logs of the real binary: one JSON line a request, and nothing secret in any.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
};

use hne_load::{
    client::{Client, Request},
    mock::{MockProvider, Options},
};
use serde_json::Value;

use super::{CHAT, holding, post};
use crate::harness::app::{DEADLINE, PROVIDER_KEY, SECRET, chat, run};

/// A running binary; ends with this.
struct Binary {
    child: Child,
    lines: Receiver<String>,
    _folder: tempfile::TempDir,
}

impl Drop for Binary {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Binary {
    fn start(mock: &MockProvider) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_hasnot-engine"))
            .env_clear()
            .envs([("LISTEN", "127.0.0.1:0"), ("JWT_SECRET", SECRET), ("OPENROUTER_API_KEY", PROVIDER_KEY)])
            .envs([("OPENROUTER_BASE_URL", mock.base_url().as_str()), ("HNE__LOG__FORMAT", "json")])
            .env("HNE_DATA_DIR", folder.path())
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let errors = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        // Ends with the binary, or with who listens.
        std::thread::spawn(move || errors.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines, _folder: folder }
    }

    /// Reads lines until one is like that.
    fn until(&self, mut found: impl FnMut(&Value) -> bool) -> Vec<Value> {
        let mut all = Vec::new();
        loop {
            let line = self.lines.recv_timeout(DEADLINE).unwrap();
            let line: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            let last = found(&line);
            all.push(line);
            if last {
                return all;
            }
        }
    }
}

#[test]
fn every_request_has_one_line_and_no_secret_is_in_it() {
    let mock = MockProvider::start(Options { api_key: Some(PROVIDER_KEY.to_owned()), ..Options::default() }).unwrap();
    let binary = Binary::start(&mock);
    let serving = binary.until(|line| line["message"] == "serving").pop().unwrap();
    let client = Client::new(serving["address"].as_str().unwrap().parse().unwrap());
    let token = holding("ann");
    let body = chat("mock/chat+frames-3", "the secret prompt");
    let preflight = Request::new("OPTIONS", CHAT)
        .header("origin", "https://app.example.com")
        .header("access-control-request-method", "POST");
    let requests = [
        (post(&body).bearer(&token), 200),
        (Request::post("/api/hasNotEngine").json(&body.to_string()).bearer(&token), 200),
        (post(&chat("mock/chat+status-500", "the secret prompt")).bearer(&token), 502),
        (Request::post(CHAT).json("{\"the secret prompt").bearer(&token), 400),
        (post(&body).bearer("hne_the-secret-key"), 401),
        (Request::get("/v1/models").bearer(&token), 200),
        (Request::get("/v1/models?key=the-secret-key").bearer("eyJ.the-secret-key.x"), 401),
        (Request::get("/nowhere").header("cookie", "the-secret-key"), 404),
        (Request::get(CHAT), 405),
        (preflight, 200),
        (Request::get("/healthz"), 200),
    ];
    run(async {
        for (number, (request, status)) in requests.iter().enumerate() {
            let request = request.clone().header("x-request-id", &format!("label-{number}"));
            let mut response = client.send(&request).await.unwrap();
            response.bytes().await.unwrap();
            assert_eq!(response.status, *status, "{number}");
        }
        let last = Request::get("/healthz").header("x-request-id", "the-last");
        assert_eq!(client.send(&last).await.unwrap().status, 200);
    });
    // A chat writes its line when it has ended, which may be after the next answer.
    let mut left: Vec<String> = (0..requests.len()).map(|number| format!("label-{number}")).collect();
    left.push("the-last".to_owned());
    let lines = binary.until(|line| {
        left.retain(|label| line["request_id"] != *label);
        left.is_empty()
    });
    for number in 0..requests.len() {
        let label = format!("label-{number}");
        let own: Vec<_> = lines.iter().filter(|line| line["request_id"] == *label).collect();
        assert_eq!(own.len(), 1, "{own:#?}");
    }
    for (number, code) in [
        (2, Some("provider_error")),
        (3, Some("invalid_json")),
        (4, Some("invalid_api_key")),
        (5, None),
        (6, Some("invalid_api_key")),
        (7, Some("not_found")),
        (8, Some("method_not_allowed")),
        (10, None),
    ] {
        let line = lines.iter().find(|line| line["request_id"] == format!("label-{number}")).unwrap();
        assert_eq!(line["code"].as_str(), code, "{line}");
    }
    let chat = lines.iter().find(|line| line["request_id"] == "label-0").unwrap();
    assert_eq!((&chat["user"], &chat["model"]), (&"ann".into(), &"mock/chat+frames-3".into()), "{chat}");
    for line in &lines {
        let line = line.to_string();
        for secret in [&token, SECRET, PROVIDER_KEY, "secret"] {
            assert!(!line.contains(secret), "{line}");
        }
    }
}
