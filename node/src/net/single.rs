//! A libp2p muxer that carries exactly one stream per connection, without framing: the dialer opens it, the listener
//! accepts it, and its bytes are the connection's.
//!
//! A muxer with framing costs half of a pair's CPU (TARGETS.md), and Shoal needs one stream. Stream and connection end
//! together: dropping the stream fails the connection at once, and closing the connection fails the stream's reads and
//! writes, so that a node which left the roster is cut off although somebody still holds its stream (MEMBERS-ONLY). Where
//! two tasks share a stream, the one that used it last is woken then; the other finds out when it next moves a byte.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::channel::oneshot;
use futures::{AsyncRead, AsyncWrite, FutureExt};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};

/// Makes a [`Single`] of a secured connection.
#[derive(Clone, Copy)]
pub(super) struct SingleUpgrade;

impl UpgradeInfo for SingleUpgrade {
    type Info = &'static str;
    type InfoIter = std::iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once("/shoal/single/1")
    }
}

impl<C> InboundConnectionUpgrade<C> for SingleUpgrade {
    type Output = Single<C>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, connection: C, _: Self::Info) -> Self::Future {
        ready(Ok(Single::new(connection, false)))
    }
}

impl<C> OutboundConnectionUpgrade<C> for SingleUpgrade {
    type Output = Single<C>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, connection: C, _: Self::Info) -> Self::Future {
        ready(Ok(Single::new(connection, true)))
    }
}

/// The muxer: holds the stream until it is asked for, then only watches it.
pub(super) struct Single<C> {
    dialer: bool,
    stream: Option<OneStream<C>>,
    stream_gone: oneshot::Receiver<Infallible>,
    _here: oneshot::Sender<Infallible>,
}

/// The one stream of a connection.
pub(super) struct OneStream<C> {
    io: C,
    connection_gone: oneshot::Receiver<Infallible>,
    _here: oneshot::Sender<Infallible>,
}

impl<C> Single<C> {
    fn new(io: C, dialer: bool) -> Self {
        let (stream_here, stream_gone) = oneshot::channel();
        let (connection_here, connection_gone) = oneshot::channel();
        let stream = OneStream { io, connection_gone, _here: stream_here };
        Self { dialer, stream: Some(stream), stream_gone, _here: connection_here }
    }

    fn take(&mut self) -> Poll<Result<OneStream<C>, io::Error>> {
        self.stream.take().map_or(Poll::Pending, |stream| Poll::Ready(Ok(stream)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Single<C> {
    type Substream = OneStream<C>;
    type Error = io::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<Self::Substream, io::Error>> {
        if self.dialer { Poll::Pending } else { self.take() }
    }

    fn poll_outbound(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<Self::Substream, io::Error>> {
        if self.dialer { self.take() } else { Poll::Pending }
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        // The stream's holder closes in order; who closes the connection does not wait for that.
        Poll::Ready(Ok(()))
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, io::Error>> {
        let Poll::Ready(Err(oneshot::Canceled)) = self.stream_gone.poll_unpin(cx) else { return Poll::Pending };
        Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "its stream was closed")))
    }
}

impl<C> OneStream<C> {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.connection_gone.poll_unpin(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(Err(oneshot::Canceled)) => {
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, "this side closed the connection"))
            }
        }
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for OneStream<C> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for OneStream<C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_close(cx)
    }
}
