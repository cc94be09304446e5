//! An answer that breaks when the API server is put out of reach, as a watch does.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame};

use crate::serve::BoxError;

/// A body that ends with an error once a future is ready.
pub(crate) struct UntilCut {
    body: UnsyncBoxBody<Bytes, BoxError>,
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl UntilCut {
    /// The body, until `cut` is ready.
    pub(crate) fn new(
        body: UnsyncBoxBody<Bytes, BoxError>,
        cut: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        Self {
            body,
            cut: Box::pin(cut),
        }
    }
}

impl Body for UntilCut {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err("the API server is out of reach".into())));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
