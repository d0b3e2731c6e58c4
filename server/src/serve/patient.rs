//! A connection whose peer must go on reading: one that takes nothing of a reply for a while is given up.

use super::door::PATIENCE;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{ready, Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{sleep, Instant, Sleep};

/// A stream that errs when a write makes no progress for [`PATIENCE`].
pub struct Patient<S> {
    stream: S,
    /// Runs while a write waits.
    waits: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    /// Wraps a connection.
    pub fn new(stream: S) -> Patient<S> {
        Patient { stream, waits: None }
    }

    /// What a write came to, or that it has waited for too long.
    fn judge<T>(&mut self, write: Poll<io::Result<T>>, context: &mut Context) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.waits = None;
            return write;
        }
        let waits = self.waits.get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
        ready!(waits.as_mut().poll(context));
        waits.as_mut().reset(Instant::now() + PATIENCE);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context, room: &mut ReadBuf) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, room)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context, data: &[u8]) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write(context, data);
        self.judge(write, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<io::Result<()>> {
        let write = Pin::new(&mut self.stream).poll_flush(context);
        self.judge(write, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<io::Result<()>> {
        let write = Pin::new(&mut self.stream).poll_shutdown(context);
        self.judge(write, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context,
        data: &[io::IoSlice],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write_vectored(context, data);
        self.judge(write, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_reads_nothing_is_given_up() {
        let (near, _far) = tokio::io::duplex(10);
        let begun = Instant::now();
        let error = Patient::new(near).write_all(&[0; 100]).await.expect_err("a stall");
        assert_eq!((error.kind(), begun.elapsed()), (io::ErrorKind::TimedOut, PATIENCE));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_peer_is_served() {
        let (near, mut far) = tokio::io::duplex(10);
        let reader = tokio::spawn(async move {
            let (mut read, mut byte) = (0, [0; 10]);
            while read < 100 {
                sleep(PATIENCE / 2).await;
                read += far.read(&mut byte).await.expect("a byte");
            }
        });
        Patient::new(near).write_all(&[0; 100]).await.expect("it goes on");
        reader.await.expect("it ends");
    }
}
