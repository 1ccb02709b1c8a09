//! Unary gRPC calls over a Unix socket: the part of the protocol that a client of containerd needs, on top of HTTP/2.
//!
//! The client is the benchmark's own, since the start of `ctr` alone takes longer than the measured operations.

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use prost::Message;
use std::{fmt, path::Path};
use tokio::net::UnixStream;

/// The length of the message prefix: one byte for compression, four for the length (gRPC over HTTP/2,
/// Length-Prefixed-Message).
const PREFIX: usize = 5;

/// The error of a call: the status of the server, or 14 (unavailable) for a broken connection.
#[derive(Debug)]
pub struct Status {
    /// The status code. 5 means not found.
    pub code: u32,
    /// The message of the server.
    pub message: String,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {})", self.message, self.code)
    }
}

impl From<h2::Error> for Status {
    fn from(error: h2::Error) -> Self {
        Self { code: 14, message: error.to_string() }
    }
}

/// A connection. Clones share it.
#[derive(Clone)]
pub struct Channel(SendRequest<Bytes>);

impl Channel {
    /// Connects to `socket`. A task of the current tokio runtime serves the connection.
    pub async fn connect(socket: &Path) -> Self {
        let stream =
            UnixStream::connect(socket).await.unwrap_or_else(|e| panic!("connect to {}: {e}", socket.display()));
        let (requests, connection) = h2::client::handshake(stream).await.expect("an HTTP/2 handshake");
        tokio::spawn(connection);
        Self(requests)
    }

    /// Calls `path` (`/package.Service/Method`) and waits for the answer. `namespace` is containerd's.
    pub async fn call<A: Message + Default>(
        &self,
        path: &str,
        namespace: &str,
        request: &impl Message,
    ) -> Result<A, Status> {
        let head = Request::post(format!("http://localhost{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("containerd-namespace", namespace)
            .body(())
            .expect("a request");
        let (response, mut body) = self.0.clone().ready().await?.send_request(head, false)?;
        body.send_data(frame(request), true)?;
        let (head, mut body) = response.await?.into_parts();
        let mut answer = BytesMut::new();
        while let Some(part) = body.data().await {
            let part = part?;
            body.flow_control().release_capacity(part.len())?;
            answer.extend_from_slice(&part);
        }
        // A server without a message sends its status in the headers.
        status(&body.trailers().await?.unwrap_or(head.headers))?;
        let message = answer.get(PREFIX..).unwrap_or_default();
        A::decode(message).map_err(|e| Status { code: 13, message: format!("the answer of {path}: {e}") })
    }
}

fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).expect("a message of less than 4 GiB"));
    message.encode(&mut frame).expect("a buffer that grows");
    frame.freeze()
}

fn status(trailers: &HeaderMap) -> Result<(), Status> {
    let text = |name: &str| trailers.get(name).and_then(|value| value.to_str().ok());
    let code = text("grpc-status").and_then(|code| code.parse().ok()).unwrap_or(2);
    if code == 0 { Ok(()) } else { Err(Status { code, message: text("grpc-message").unwrap_or_default().into() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_message_has_its_length_before_it() {
        // The message of one string has this wire form: field 1, length, bytes.
        assert_eq!(frame(&"ab".to_owned())[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
    }

    #[test]
    fn grpc_status_is_read_from_its_code() {
        let trailers = |code: &'static str| {
            let mut map = HeaderMap::new();
            map.insert("grpc-status", code.parse().unwrap());
            map.insert("grpc-message", "no such container".parse().unwrap());
            map
        };
        assert!(status(&trailers("0")).is_ok());
        assert_eq!(status(&trailers("5")).unwrap_err().to_string(), "no such container (code 5)");
        assert_eq!(status(&HeaderMap::new()).unwrap_err().code, 2);
    }
}
