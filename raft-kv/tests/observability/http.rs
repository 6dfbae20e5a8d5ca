//! The smallest client that can ask for a page.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// What came back.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// In lower case.
    pub(crate) headers: String,
    pub(crate) body: String,
}

/// Sends a request with this first line; an error if there is nobody.
pub(crate) fn request(address: SocketAddr, line: &str) -> std::io::Result<Response> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let request = format!("{line} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let (first, headers) = head.split_once("\r\n").unwrap_or((head, ""));
    let status = first
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3));
    Ok(Response {
        status: status
            .and_then(|s| s.parse().ok())
            .ok_or(std::io::ErrorKind::InvalidData)?,
        headers: headers.to_lowercase(),
        body: body.to_owned(),
    })
}

/// Asks for a page that is there.
pub(crate) fn get(address: SocketAddr, path: &str) -> Response {
    request(address, &format!("GET {path}")).unwrap_or_else(|error| panic!("{path}: {error}"))
}
