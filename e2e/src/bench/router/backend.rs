//! The pods behind the proxies: two listeners, one for each arm, that answer what a path asks for.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use tokio::net::{TcpListener, TcpStream};

use crate::bench::router::{
    exchange::{self, Clock, Exchange},
    wire::{HEADER_ARM, Wire},
};

/// A large answer is written in parts of this.
const PART_BYTES: usize = 64 * 1024;
static PART: [u8; PART_BYTES] = [b'x'; PART_BYTES];

/// Answers on a listener for as long as the runtime lives.
pub(super) async fn serve(listener: TcpListener, arm: &'static str, clock: Clock) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        tokio::spawn(async move {
            // A proxy that closes an idle connection is none of the backend's business.
            connection(stream, arm, clock).await.unwrap_or_default();
        });
    }
}

async fn connection(stream: TcpStream, arm: &str, clock: Clock) -> io::Result<()> {
    let mut wire = Wire::of(stream)?;
    let mut answer = Vec::new();
    loop {
        let head = wire.head().await?;
        wire.body(head.framing, |_| {}).await?;
        match Exchange::of_path(&head.word) {
            Some(Exchange::Answer { bytes }) => {
                whole(&mut wire, &mut answer, arm, bytes).await?;
            }
            Some(Exchange::Stream {
                prompt: _,
                records,
                every_millis,
            }) => {
                let every = Duration::from_millis(every_millis);
                stream_records(&mut wire, arm, clock, records, every).await?;
            }
            None => {
                wire.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
                    .await?;
            }
        }
    }
}

async fn whole(wire: &mut Wire, answer: &mut Vec<u8>, arm: &str, length: usize) -> io::Result<()> {
    answer.clear();
    write!(
        answer,
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{HEADER_ARM}: {arm}\r\ncontent-length: {length}\r\n\r\n"
    )?;
    let first = length.min(PART_BYTES);
    answer.resize(answer.len() + first, b'x');
    wire.write(answer).await?;
    let mut missing = length - first;
    while missing > 0 {
        let part = PART.get(..missing.min(PART_BYTES)).unwrap_or_default();
        wire.write(part).await?;
        missing -= part.len();
    }
    Ok(())
}

async fn stream_records(
    wire: &mut Wire,
    arm: &str,
    clock: Clock,
    records: u32,
    every: Duration,
) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n{HEADER_ARM}: {arm}\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    wire.write(head.as_bytes()).await?;
    let mut pace = tokio::time::interval(every);
    for _ in 0..records {
        pace.tick().await;
        let record = exchange::record(clock.now());
        let chunk = format!("{:x}\r\n{record}\r\n", record.len());
        wire.write(chunk.as_bytes()).await?;
    }
    wire.write(b"0\r\n\r\n").await
}
