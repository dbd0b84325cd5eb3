//! Streams in the forms that providers send, beside what is to become of them.
//!
//! `golden/NAME.sse` is what came, written for this project; `golden/NAME.txt` what is expected: a line for each piece,
//! with ␊ and ␍ for line ends, then what was left over, then what the frames said. Lines that begin with # are remarks.

use std::{fmt::Write, fs, path::Path};

use actors::stream::sse::{Options, Piece, PieceKind, Rest, Scanner};
use bytes::Bytes;

/// As on the paths that SDKs call, where the scanner does most.
const OPTIONS: Options = Options { max_frame_bytes: 4096, max_tokens: 128_000, choices: 1, sdk_safe: true };

/// What became of a stream.
struct Told {
    pieces: Vec<(PieceKind, Vec<u8>)>,
    /// What was left over, and what the frames said.
    end: String,
}

impl Told {
    /// Joins frames that are forwarded one after the other: how many come in one piece depends on the chunks.
    fn joined(&self) -> (Vec<(PieceKind, Vec<u8>)>, &str) {
        let mut joined: Vec<(PieceKind, Vec<u8>)> = Vec::new();
        for (kind, bytes) in &self.pieces {
            match joined.last_mut() {
                Some((PieceKind::Frames, before)) if *kind == PieceKind::Frames => before.extend_from_slice(bytes),
                _ => joined.push((*kind, bytes.clone())),
            }
        }
        (joined, &self.end)
    }

    /// Writes it down as the golden files have it.
    fn written(&self) -> String {
        let mut text = String::new();
        for (kind, bytes) in &self.pieces {
            let bytes = String::from_utf8_lossy(bytes).replace('\n', "␊").replace('\r', "␍");
            writeln!(text, "{kind:?} {bytes}").unwrap();
        }
        text + &self.end
    }
}

fn scan<'a>(options: Options, chunks: impl IntoIterator<Item = &'a [u8]>) -> Told {
    let mut scanner = Scanner::new(options);
    let mut pieces = Vec::new();
    for chunk in chunks {
        for piece in scanner.scan(Bytes::copy_from_slice(chunk)) {
            let Piece { kind, bytes } = piece.unwrap();
            pieces.push((kind, bytes.to_vec()));
        }
    }
    let rest = match scanner.finish() {
        Rest::Frame(Piece { kind, bytes }) => {
            pieces.push((kind, bytes.to_vec()));
            "completed".to_owned()
        }
        Rest::Nothing => "nothing".to_owned(),
        Rest::Dropped(bytes) => format!("{bytes} bytes, dropped"),
    };
    Told { pieces, end: format!("left: {rest}\n{:#?}\n", scanner.watched()) }
}

#[test]
fn each_form_is_read_alike_whole_bytewise_and_at_each_split() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sse/golden");
    let mut streams: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    streams.retain(|path| path.extension().is_some_and(|extension| extension == "sse"));
    assert!(streams.len() >= 20, "the golden files are not where they were");
    let mut wrong = String::new();
    for path in streams {
        let stream = fs::read(&path).unwrap();
        let expected = fs::read_to_string(path.with_extension("txt")).unwrap_or_default();
        let expected: String = expected.split_inclusive('\n').filter(|line| !line.starts_with('#')).collect();
        // Bytewise, each frame is a piece.
        let bytewise = scan(OPTIONS, stream.chunks(1));
        let name = path.display();
        if bytewise.written() != expected {
            writeln!(wrong, "{name}: expected\n{expected}but was\n{}", bytewise.written()).unwrap();
        }
        assert_eq!(scan(OPTIONS, [stream.as_slice()]).joined(), bytewise.joined(), "{name}, whole");
        for at in 1..stream.len() {
            let (head, tail) = stream.split_at(at);
            assert_eq!(scan(OPTIONS, [head, tail]).joined(), bytewise.joined(), "{name}, split at {at}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
