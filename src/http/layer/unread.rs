//! Bodies that are answered before they have ended.
//!
//! actix closes the connection of a body whose length was said, if it is answered before it was read. One that comes in
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
    body::{BodySize, BoxBody, MessageBody},
    dev::{Payload, ServiceRequest, ServiceResponse},
    error::PayloadError,
    http::header::TRANSFER_ENCODING,
};
use bytes::Bytes;
use futures_util::Stream;

/// A body that comes in chunks, shared by whoever reads it and by its answer.
#[derive(Clone)]
pub(super) struct Chunked(Rc<RefCell<Payload>>);

impl Chunked {
    /// Takes a request's body, and leaves it to be read; `None` where its length was said.
    pub(super) fn of(request: &mut ServiceRequest) -> Option<Self> {
        request.headers().contains_key(TRANSFER_ENCODING).then(|| {
            let body = Self(Rc::new(RefCell::new(request.take_payload())));
            request.set_payload(Payload::Stream { payload: Box::pin(body.clone()) });
            body
        })
    }

    /// Has an answer hold it.
    pub(super) fn hold<B: MessageBody + 'static>(self, response: ServiceResponse<B>) -> ServiceResponse<Holding> {
        response.map_body(|_, body| Holding { body: body.boxed(), _request: self })
    }
}

impl Stream for Chunked {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_next(cx)
    }
}

/// An answer's body, with the request's.
pub struct Holding {
    body: BoxBody,
    _request: Chunked,
}

impl MessageBody for Holding {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
}
