//! However a stream is cut, the same frames are read and the same bytes forwarded.
#![no_main]

use actors::stream::sse::{Options, PieceKind, Rest, Scanner, Watched};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

/// What became of a stream; frames that follow each other are joined.
#[derive(Debug, PartialEq)]
struct Told {
    pieces: Vec<(PieceKind, Vec<u8>)>,
    watched: Watched,
    rest: Rest,
    too_long: bool,
}

/// Reads a stream in chunks of these lengths, as long as it goes.
fn scan(options: Options, mut stream: Bytes, lens: impl IntoIterator<Item = usize>) -> Told {
    let mut scanner = Scanner::new(options);
    let mut pieces: Vec<(PieceKind, Vec<u8>)> = Vec::new();
    let mut too_long = false;
    for len in lens {
        if stream.is_empty() {
            break;
        }
        for piece in scanner.scan(stream.split_to(len.min(stream.len()))) {
            let Ok(piece) = piece else {
                too_long = true;
                continue;
            };
            assert!(!piece.bytes.is_empty());
            match pieces.last_mut() {
                Some((PieceKind::Frames, before)) if piece.kind == PieceKind::Frames => before.extend(&piece.bytes),
                _ => pieces.push((piece.kind, piece.bytes.to_vec())),
            }
        }
        assert!(scanner.held() <= options.max_frame_bytes);
    }
    let rest = scanner.finish();
    Told { pieces, watched: *scanner.watched(), rest, too_long }
}

/// Says whether `part` is what is left of `all` when some bytes are left out.
fn is_left_of(part: impl IntoIterator<Item = u8>, all: &[u8]) -> bool {
    let mut all = all.iter();
    part.into_iter().all(|byte| all.any(|other| *other == byte))
}

// The last four bytes, which are also part of the stream, say how it is cut.
fuzz_target!(|stream: &[u8]| {
    let Some((_, cuts)) = stream.split_last_chunk::<4>() else { return };
    let max_frame_bytes = if cuts[0] & 2 == 0 { 4096 } else { 16 + usize::from(cuts[0]) };
    let options = Options { max_frame_bytes, max_tokens: 128_000, choices: 1, sdk_safe: cuts[0] & 1 == 0 };
    let bytes = Bytes::copy_from_slice(stream);
    let whole = scan(options, bytes.clone(), [stream.len()]);
    assert_eq!(scan(options, bytes.clone(), std::iter::repeat(1)), whole);
    assert_eq!(scan(options, bytes, cuts.iter().map(|cut| 1 + usize::from(*cut)).cycle()), whole);
    // Nothing is made up, and what ends a stream comes last.
    assert!(is_left_of(whole.pieces.iter().flat_map(|(_, bytes)| bytes.iter().copied()), stream));
    let ends = |(kind, _): &(PieceKind, Vec<u8>)| matches!(kind, PieceKind::Done | PieceKind::Error);
    assert!(whole.pieces.iter().rev().skip(1).all(|piece| !ends(piece)));
    // The error that ends a stream may have text, too.
    assert!(whole.watched.content_frames <= whole.watched.data_frames + u64::from(whole.watched.failed));
    assert!(whole.watched.data_frames <= whole.watched.frames);
    assert!(whole.watched.content_bytes <= stream.len() as u64);
});
