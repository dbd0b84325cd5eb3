//! The log of one answer, and who reads it.

use std::{
    cell::RefCell,
    collections::VecDeque,
    sync::atomic::{AtomicBool, Ordering},
    task::Wake,
};

use futures_util::{FutureExt, StreamExt, stream};

use super::{
    answer::{MAX_READERS, size},
    *,
};
use crate::domain::ErrorCode;

const ANN: UserKey = UserKey(1);

fn key() -> IdempotencyKey {
    "key".parse().unwrap()
}

fn request() -> Fingerprint {
    Fingerprint::of(b"body", b"stream")
}

fn first(repeats: &Arc<Repeats>) -> Place {
    match repeats.enter(ANN, key(), request()) {
        Entered::First(place) => place,
        other => panic!("{other:?}"),
    }
}

fn repeat(repeats: &Arc<Repeats>) -> Reader {
    match repeats.enter(ANN, key(), request()) {
        Entered::Repeat(reader) => reader,
        other => panic!("{other:?}"),
    }
}

/// Serves without an actor: the test passes items on by itself.
fn serve(place: &Place) -> Reader {
    let reader = Reader { reader: place.answer.serve(), answer: Arc::clone(&place.answer) };
    place.answer.begin(Beginning { head: Head::Stream, timings: Timings::default(), standing: None });
    reader
}

type Source = stream::Fuse<stream::Iter<std::vec::IntoIter<Result<Bytes, Failure>>>>;

fn source(items: &[&'static [u8]]) -> Source {
    stream::iter(items.iter().map(|item| Ok(Bytes::from_static(item))).collect::<Vec<_>>()).fuse()
}

/// What so many items of two bytes take.
fn items(count: usize) -> usize {
    count * size(&Ok(Bytes::from_static(b"aa")))
}

/// Room in which each answer may take as much as so many items of two bytes.
fn room(count: usize) -> usize {
    items(count) * 8
}

/// Passes on as much as the readers want; says whether it is over.
fn pass(place: &Place, source: &mut Source) -> bool {
    poll_fn(|cx| place.answer.poll_pass(source, cx)).now_or_never().is_some()
}

fn read(reader: &mut Reader) -> Option<Option<Result<Bytes, Failure>>> {
    reader.next().now_or_never()
}

fn frames(text: &'static [u8]) -> Option<Option<Result<Bytes, Failure>>> {
    Some(Some(Ok(Bytes::from_static(text))))
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn the_fastest_reader_sets_the_pace() {
    let repeats = Repeats::new(room(8));
    let place = first(&repeats);
    let mut one = serve(&place);
    let mut two = repeat(&repeats);
    let mut source = source(&[b"aa", b"bb", b"cc"]);
    assert!(!pass(&place, &mut source));
    assert_eq!(repeats.kept_bytes(), items(1), "one item ahead of the fastest");
    assert_eq!(read(&mut two), frames(b"aa"));
    assert!(!pass(&place, &mut source));
    assert_eq!(read(&mut two), frames(b"bb"));
    assert_eq!(read(&mut two), None);
    assert!(!pass(&place, &mut source));
    assert_eq!(read(&mut two), frames(b"cc"));
    assert!(pass(&place, &mut source));
    assert_eq!(read(&mut two), Some(None));
    for (read_so_far, item) in [b"aa", b"bb", b"cc"].into_iter().enumerate() {
        assert_eq!(repeats.kept_bytes(), items(3 - read_so_far), "of what is over, what is still to be read is kept");
        assert_eq!(read(&mut one), frames(item));
    }
    assert_eq!(read(&mut one), Some(None));
    drop((place, one, two));
    assert_eq!((repeats.kept_bytes(), repeats.running()), (0, 0));
}

#[test]
fn a_place_that_is_given_up_is_taken_by_who_waits() {
    let repeats = Repeats::new(1 << 10);
    let place = first(&repeats);
    let mut waiting = [repeat(&repeats), repeat(&repeats)];
    let woken = Arc::new(Woken::default());
    let waker = Arc::clone(&woken).into();
    let mut cx = Context::from_waker(&waker);
    assert!(Box::pin(waiting[0].beginning()).poll_unpin(&mut cx).is_pending());
    drop(place);
    assert!(woken.0.load(Ordering::SeqCst));
    for reader in &mut waiting {
        assert!(reader.beginning().now_or_never().unwrap().is_none());
    }
    let _next = first(&repeats);
    assert!(matches!(repeats.enter(ANN, key(), request()), Entered::Repeat(_)));
}

#[test]
fn nobody_joins_what_nobody_reads() {
    let repeats = Repeats::new(1 << 10);
    let place = first(&repeats);
    let reader = serve(&place);
    drop(reader);
    let mut source = source(&[b"a"]);
    assert!(pass(&place, &mut source));
    assert_eq!(source.size_hint(), (1, Some(1)), "nothing is read of the provider");
    let _new = first(&repeats);
    drop(place);
    assert_eq!(repeats.running(), 1, "the new one's entry is not the old one's to remove");
}

#[test]
fn what_breaks_in_the_middle_ends_with_an_error() {
    let repeats = Repeats::new(1 << 10);
    let place = first(&repeats);
    let mut reader = serve(&place);
    assert!(!pass(&place, &mut source(&[b"a"])));
    drop(place);
    assert_eq!(read(&mut reader), frames(b"a"));
    assert_eq!(read(&mut reader), Some(Some(Err(Failure::new(ErrorCode::InternalError)))));
    assert_eq!(read(&mut reader), Some(None));
}

#[test]
fn without_room_only_what_is_to_be_read_is_kept() {
    let repeats = Repeats::new(room(2));
    let place = first(&repeats);
    let mut fast = serve(&place);
    let mut slow = repeat(&repeats);
    let mut source = source(&[b"aa", b"bb", b"cc", b"dd", b"ee"]);
    for item in [b"aa", b"bb"] {
        assert!(!pass(&place, &mut source));
        assert_eq!(read(&mut fast), frames(item));
    }
    assert_eq!(repeats.kept_bytes(), items(2));
    assert!(!pass(&place, &mut source));
    assert_eq!(repeats.kept_bytes(), items(1), "what came before is gone");
    assert!(matches!(repeats.enter(ANN, key(), request()), Entered::TooLate));
    assert!(matches!(repeats.enter(ANN, key(), Fingerprint::of(b"another", b"stream")), Entered::Mismatch));
    assert_eq!(read(&mut fast), frames(b"cc"));
    assert_eq!(repeats.kept_bytes(), 0, "who is behind that counts for nothing");
    assert_eq!(read(&mut slow), Some(Some(Err(Failure::new(ErrorCode::Overloaded)))));
    assert_eq!(read(&mut slow), Some(None));
    assert!(!pass(&place, &mut source));
    assert_eq!(read(&mut fast), frames(b"dd"));
    drop(fast);
    assert!(pass(&place, &mut source));
}

#[test]
fn a_reader_that_lags_does_not_keep_an_answer_alive() {
    let repeats = Repeats::new(room(1));
    let place = first(&repeats);
    let mut fast = serve(&place);
    let mut slow = repeat(&repeats);
    let mut source = source(&[b"aa", b"bb", b"cc"]);
    for item in [b"aa", b"bb"] {
        assert!(!pass(&place, &mut source));
        assert_eq!(read(&mut fast), frames(item));
    }
    drop(fast);
    assert!(pass(&place, &mut source), "nobody is left who could read on");
    assert_eq!(read(&mut slow), Some(Some(Err(Failure::new(ErrorCode::Overloaded)))));
    assert_eq!(read(&mut slow), Some(None));
}

#[test]
fn what_was_asked_for_is_taken_also_when_its_reader_has_left() {
    let repeats = Repeats::new(room(8));
    let place = first(&repeats);
    let mut fast = serve(&place);
    let _slow = repeat(&repeats);
    let provider = RefCell::new(VecDeque::new());
    let say = |item: &'static [u8]| provider.borrow_mut().push_back(Ok(Bytes::from_static(item)));
    let hear =
        |_: &mut Context<'_>| provider.borrow_mut().pop_front().map_or(Poll::Pending, |item| Poll::Ready(Some(item)));
    let mut source = stream::poll_fn(hear).fuse();
    let mut pass = || poll_fn(|cx| place.answer.poll_pass(&mut source, cx)).now_or_never();
    say(b"aa");
    assert!(pass().is_none());
    assert_eq!(read(&mut fast), frames(b"aa"));
    assert!(pass().is_none(), "the provider is asked for more, and is silent");
    drop(fast);
    say(b"bb");
    assert!(pass().is_none());
    assert_eq!(repeats.kept_bytes(), items(2), "its silence ends when it speaks");
    say(b"cc");
    assert!(pass().is_none());
    assert_eq!(repeats.kept_bytes(), items(2), "nobody wants more yet");
}

#[test]
fn an_end_is_taken_though_nobody_has_read_up_to_it() {
    let repeats = Repeats::new(room(8));
    let place = first(&repeats);
    let mut reader = serve(&place);
    assert!(!pass(&place, &mut source(&[b"aa"])), "not by a source that may go on");
    let mut ended = source(&[]);
    assert_eq!(ended.next().now_or_never(), Some(None));
    assert!(pass(&place, &mut ended));
    assert_eq!(repeats.running(), 1);
    drop(place);
    assert_eq!(read(&mut reader), frames(b"aa"));
    assert_eq!(read(&mut reader), Some(None), "no error follows the end");
}

#[test]
fn what_was_admitted_is_not_admitted_again() {
    let repeats = Repeats::new(room(8));
    let place = first(&repeats);
    let mut waiting = repeat(&repeats);
    let mut reader = Reader { reader: place.answer.serve(), answer: Arc::clone(&place.answer) };
    assert_eq!(repeats.running(), 1);
    assert!(repeats.idle().now_or_never().is_none());
    drop(place);
    assert!(repeats.idle().now_or_never().is_some());
    for reader in [&mut reader, &mut waiting] {
        let beginning = reader.beginning().now_or_never().unwrap().unwrap();
        assert!(matches!(beginning.head, Head::Failed(failure) if failure.code == ErrorCode::InternalError));
    }
}

#[test]
fn an_answer_has_eight_readers_at_most() {
    let repeats = Repeats::new(room(8));
    let place = first(&repeats);
    let _reader = serve(&place);
    let mut readers: Vec<_> = (1..MAX_READERS).map(|_| repeat(&repeats)).collect();
    assert!(matches!(repeats.enter(ANN, key(), request()), Entered::TooMany));
    readers.pop();
    readers.push(repeat(&repeats));
}

#[test]
fn keys_are_visible_and_short() {
    for bad in ["", " ", "a b", "\u{e9}", "a\n", &"k".repeat(256)] {
        assert_eq!(bad.parse::<IdempotencyKey>(), Err(InvalidKey), "{bad:?}");
    }
    assert!("k".repeat(255).parse::<IdempotencyKey>().is_ok());
    assert_ne!(Fingerprint::of(b"a", b"bc"), Fingerprint::of(b"ab", b"c"));
}
