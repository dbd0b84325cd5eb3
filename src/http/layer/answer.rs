//! What lasts until an answer has ended.
//!
//! Of a body whose length was said actix closes the connection, if it is answered before it was read. One that comes in
//! chunks it reads on as soon as nobody holds it, with neither a deadline nor a limit, and keeps its connection meanwhile.
//! So its answer holds it: then its connection is closed, too.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use actix_web::{
    HttpMessage,
    body::{BodySize, MessageBody},
    dev::{Payload, ServiceRequest},
    error::PayloadError,
    http::header::TRANSFER_ENCODING,
};
use bytes::Bytes;
use futures_util::Stream;
use pin_project_lite::pin_project;

use crate::http::connection::{Heads, Served};

/// What its answer holds of a request.
pub(super) struct Lasting {
    _served: Option<Served>,
    _body: Option<Chunked>,
}

impl Lasting {
    /// Takes what is to last, and leaves the body to be read.
    pub(super) fn of(request: &mut ServiceRequest) -> Self {
        let served = request.conn_data::<Rc<Heads>>().map(Heads::serve);
        Self { _served: served, _body: Chunked::of(request) }
    }

    /// Has an answer's body hold it.
    pub(super) fn beside<B>(self, body: B) -> Answer<B> {
        Answer { body, _lasting: self }
    }
}

/// A body that comes in chunks, shared by whoever reads it and by its answer.
#[derive(Clone)]
struct Chunked(Rc<RefCell<Payload>>);

impl Chunked {
    /// Takes a request's body, and leaves it to be read; `None` where its length was said.
    fn of(request: &mut ServiceRequest) -> Option<Self> {
        request.headers().contains_key(TRANSFER_ENCODING).then(|| {
            let body = Self(Rc::new(RefCell::new(request.take_payload())));
            request.set_payload(Payload::Stream { payload: Box::pin(body.clone()) });
            body
        })
    }
}

impl Stream for Chunked {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_next(cx)
    }
}

pin_project! {
    /// An answer's body, with what lasts until its end.
    pub struct Answer<B> {
        #[pin]
        body: B,
        _lasting: Lasting,
    }
}

impl<B: MessageBody> MessageBody for Answer<B> {
    type Error = B::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        self.project().body.poll_next(cx)
    }
}
