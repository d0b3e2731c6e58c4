//! One POST to a webhook: 5 s in all, no redirect followed, nothing of the reply shown but its status, and never to a
//! link-local address or to a door of our own.

use super::{tls, Shared};
use crate::model::webhook;
use crate::wire::url::Url;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::Request;
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

/// How long everything may take: the name, the connection, the reply's head.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is sent.
pub struct Post {
    /// JSON.
    pub body: String,
    /// Headers of ours.
    pub headers: Vec<(&'static str, String)>,
}

/// Sends; the status of a reply that is a success.
///
/// # Errors
/// Why it did not arrive, in a few words that hold nothing of the reply but its status.
pub async fn send(shared: &Shared, url: &Url, post: Post) -> Result<u16, String> {
    match tokio::time::timeout(PATIENCE, try_send(shared, url, post)).await {
        Ok(done) => done,
        Err(_) => Err("no answer within 5 s".to_string()),
    }
}

async fn try_send(shared: &Shared, url: &Url, post: Post) -> Result<u16, String> {
    let stream = connect(shared, url).await?;
    if !url.https {
        return exchange(stream, url, post).await;
    }
    let name = ServerName::try_from(url.host.clone()).map_err(|_| "its name is none for TLS".to_string())?;
    let connector = TlsConnector::from(tls::client()?);
    let stream = connector.connect(name, stream).await.map_err(|error| format!("no TLS: {error}"))?;
    exchange(stream, url, post).await
}

/// Connects to an address that was looked at after its name was resolved; it is not resolved again.
async fn connect(shared: &Shared, url: &Url) -> Result<TcpStream, String> {
    let found = tokio::net::lookup_host((url.host.as_str(), url.port)).await;
    let addresses: Vec<SocketAddr> = found.map_err(|_| format!("the name {} is not found", url.host))?.collect();
    if let Some(why) = addresses.iter().find_map(|address| webhook::forbidden(address.ip())) {
        return Err(format!("{} is {why}, where no message may go", url.host));
    }
    for address in addresses {
        let Ok(stream) = TcpStream::connect(address).await else { continue };
        let (Ok(own), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) else { continue };
        let here = own.ip() == peer.ip() || peer.ip().is_loopback();
        if here && shared.doors.get().is_some_and(|doors| doors.iter().any(|door| door.port() == peer.port())) {
            return Err(format!("{} is a door of this server", url.authority()));
        }
        return Ok(stream);
    }
    Err("no connection".to_string())
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    url: &Url,
    post: Post,
) -> Result<u16, String> {
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(64 << 10)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|_| "the connection broke off".to_string())?;
    let connection = tokio::spawn(connection);
    let mut request = Request::post(&url.target).header("host", url.authority()).header("connection", "close");
    for (name, value) in &post.headers {
        request = request.header(*name, value);
    }
    let request = request.body(Full::new(Bytes::from(post.body))).map_err(|error| error.to_string())?;
    let reply = sender.send_request(request).await;
    // The reply's body is nobody's business: it is not read.
    connection.abort();
    match reply.map(|reply| reply.status().as_u16()) {
        Ok(status @ 200..=299) => Ok(status),
        Ok(status @ 300..=399) => Err(format!("answered with status {status}: redirects are not followed")),
        Ok(status) => Err(format!("answered with status {status}")),
        Err(_) => Err("no HTTP answer".to_string()),
    }
}
