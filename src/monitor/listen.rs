//! `GET /metrics` on this machine.

use super::metrics::Metrics;
use super::usage;
use crate::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(2);
const REQUEST_MAX: usize = 8 * 1024;

/// Answers on a thread of its own as long as the process lives.
///
/// # Errors
/// An address of elsewhere, or one that cannot be had.
pub fn begin(address: SocketAddr, metrics: Arc<Mutex<Metrics>>) -> Result<(), Error> {
    if !address.ip().is_loopback() {
        return Err(usage(
            format!("metrics are not shown to the network: {address} is not an address of this machine alone"),
            "use 127.0.0.1:PORT or [::1]:PORT, or --metrics-file with a collector",
        ));
    }
    let listener = TcpListener::bind(address).map_err(|error| {
        usage(format!("cannot listen at {address}"), "choose another port").source(error)
    })?;
    std::thread::spawn(move || {
        // One after the other: there is one collector, and each answer is bounded.
        for stream in listener.incoming().flatten() {
            let _ = answer(stream, &metrics);
        }
    });
    Ok(())
}

fn answer(mut stream: TcpStream, metrics: &Mutex<Metrics>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    let mut part = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < REQUEST_MAX {
        match stream.read(&mut part)? {
            0 => break,
            length => request.extend_from_slice(&part[..length]),
        }
    }
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let (status, kind, body) = match (words.next(), words.next()) {
        (Some(b"GET"), Some(b"/metrics")) => (
            "200 OK",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            metrics.lock().unwrap_or_else(PoisonError::into_inner).text(),
        ),
        (Some(b"GET"), _) => ("404 Not Found", "text/plain", "metrics are at /metrics\n".into()),
        _ => ("405 Method Not Allowed", "text/plain", "only GET\n".into()),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}
