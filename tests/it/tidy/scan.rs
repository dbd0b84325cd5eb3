//! Reads Rust just closely enough: code without comments and literals, the literals, and the paths that code names.
#![expect(clippy::string_slice, reason = "every position was found in the text that it cuts")]

/// A file, taken apart.
pub(super) struct Source {
    /// From the repository's root, with `/`.
    pub(super) path: String,
    /// As it is.
    pub(super) text: String,
    /// With comments and the insides of literals left out; the line breaks stay.
    pub(super) code: String,
    /// What stands in string literals.
    pub(super) literals: Vec<String>,
}

impl Source {
    pub(super) fn new(path: &str, text: &str) -> Self {
        let (code, literals) = take_apart(text);
        Self { path: path.to_owned(), text: text.to_owned(), code, literals }
    }

    /// Returns the code without the unit tests, which may name what they like.
    pub(super) fn shipped(&self) -> &str {
        if self.path.ends_with("/tests.rs") || self.path.contains("/tests/") {
            return "";
        }
        self.code.split_once("#[cfg(test)]\nmod ").map_or(&self.code, |(above, _)| above)
    }
}

fn take_apart(text: &str) -> (String, Vec<String>) {
    let (mut code, mut literals) = (String::new(), Vec::new());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let taken = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some((len, inside)) = string(rest, code.chars().last()) {
            literals.push(inside.to_owned());
            code.push_str("\"\"");
            len
        } else if let Some(len) = character(rest) {
            code.push_str("' '");
            len
        } else {
            code.push(next);
            rest = &rest[next.len_utf8()..];
            continue;
        };
        code.extend(rest[..taken].chars().filter(|c| *c == '\n'));
        rest = &rest[taken..];
    }
    (code, literals)
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(found) = rest[at..].find(['/', '*']) {
        at += found;
        match rest.get(at..at + 2) {
            Some("/*") => (depth, at) = (depth + 1, at + 2),
            Some("*/") => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// Returns the length and the inside of the string literal that `rest` begins with.
fn string(rest: &str, before: Option<char>) -> Option<(usize, &str)> {
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let prefix = rest.find(|c| !matches!(c, 'b' | 'c' | 'r')).filter(|len| *len <= 2 && (*len == 0 || !in_word))?;
    let hashes =
        if rest[..prefix].contains('r') { rest[prefix..].bytes().take_while(|b| *b == b'#').count() } else { 0 };
    let start = prefix + hashes + 1;
    rest[prefix + hashes..].starts_with('"').then_some(())?;
    let end = if rest[..prefix].contains('r') {
        rest[start..].find(&format!("\"{}", "#".repeat(hashes))).map_or(rest.len(), |end| start + end)
    } else {
        let mut escaped = false;
        let closes = |c: char| {
            let quote = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            quote
        };
        rest[start..].find(closes).map_or(rest.len(), |end| start + end)
    };
    Some(((end + 1 + hashes).min(rest.len()), &rest[start..end]))
}

/// Returns the length of the character literal that `rest` begins with; a lifetime is none.
fn character(rest: &str) -> Option<usize> {
    let inside = rest.strip_prefix('\'')?;
    let len = if inside.starts_with('\\') {
        2 + inside.get(2..)?.find('\'')?
    } else {
        inside.chars().next().map(char::len_utf8)?
    };
    inside.get(len..)?.starts_with('\'').then_some(len + 2)
}

/// Returns the paths of this crate that a file's code names, from the crate's root: `[["http", "body"], …]`.
///
/// `module` is the file's own path, such as `["http", "chat"]`; `super` is resolved by it.
pub(super) fn named(code: &str, module: &[&str]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if !code[..at].ends_with(is_word) {
            tree(&code[at + "crate::".len()..], &[], &mut found);
        }
    }
    for (at, _) in code.match_indices("super::") {
        // Of `super::super::x` only the first `super` starts a path.
        if code[..at].ends_with(is_word) || code[..at].ends_with("super::") {
            continue;
        }
        let ups = code[at..].split("super::").take_while(|between| between.is_empty()).count();
        let parent: Vec<String> = module[..module.len().saturating_sub(ups)].iter().map(|&s| s.to_owned()).collect();
        tree(&code[at + ups * "super::".len()..], &parent, &mut found);
    }
    found
}

/// Returns the crates and modules that a file's code names first in a path: `actix` of `actix::Addr`.
pub(super) fn roots(code: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("::") {
        let start = code[..at].rfind(|c| !is_word(c)).map_or(0, |before| before + 1);
        if start < at && !code[..start].ends_with("::") {
            found.push(&code[start..at]);
        }
    }
    found
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Reads a path or a tree of them, `a::{b, c::d}`, and returns what follows it.
fn tree<'a>(text: &'a str, prefix: &[String], found: &mut Vec<Vec<String>>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut group) = text.strip_prefix('{') {
        loop {
            group = tree(group, prefix, found).trim_start();
            match group.strip_prefix(',') {
                Some(more) => group = more,
                None => return group.strip_prefix('}').unwrap_or(group),
            }
        }
    }
    let len = text.find(|c| !is_word(c)).unwrap_or(text.len());
    let (word, mut rest) = text.split_at(len);
    let path: Vec<String> = prefix.iter().cloned().chain((!word.is_empty()).then(|| word.to_owned())).collect();
    if let (false, Some(more)) = (word.is_empty(), rest.strip_prefix("::")) {
        return tree(more, &path, found);
    }
    found.push(path);
    rest = rest.trim_start_matches('*');
    let renamed = rest.trim_start().strip_prefix("as ");
    renamed.map_or(rest, |name| name.trim_start().trim_start_matches(is_word))
}

#[test]
fn code_is_told_from_comments_and_literals() {
    let text = "let a = \"x \\\" // no\"; // crate::b\n/* crate::c /* nested */ */ let c = '\"'; let d: &'a str = r#\"y\"z\"#;";
    let source = Source::new("x.rs", text);
    assert_eq!(source.literals, ["x \\\" // no", "y\"z"]);
    assert_eq!(source.code, "let a = \"\"; \n let c = ' '; let d: &'a str = \"\";");
    let tested = Source::new("x.rs", "use crate::a;\n#[cfg(test)]\nmod tests { use crate::b; }");
    assert_eq!(tested.shipped(), "use crate::a;\n");
    assert_eq!(Source::new("src/store/tests.rs", "use crate::b;").shipped(), "");
    assert_eq!(Source::new("x.rs", "'\\u{1F600}' '\\n' b'\"' b\"x\" br\"y\"").literals, ["x", "y"]);
}

#[test]
fn paths_are_found_in_groups_and_by_super() {
    let paths = |code, module: &[&str]| named(code, module).into_iter().map(|path| path.join("::")).collect::<Vec<_>>();
    assert_eq!(paths("use crate::{a::{b, c as d}, e::*, self};", &[]), ["a::b", "a::c", "e", "self"]);
    assert_eq!(paths("pub(crate) use super::store::X; super::super::y()", &["http", "chat"]), ["http::store::X", "y"]);
    assert_eq!(paths("my_crate::a", &[]), Vec::<String>::new());
    assert_eq!(roots("use actix::{Addr}; std::fs::read(x.a::<B>()); T::now()"), ["actix", "std", "a", "T"]);
}
