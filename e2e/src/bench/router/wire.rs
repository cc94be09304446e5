//! As much HTTP/1.1 as the load and the backend need, on bytes: what measures a proxy must cost less
//! than the proxy, and a whole HTTP library on each side of it costs more.

use std::io;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, ToSocketAddrs},
};

/// Room for what one read may bring.
const READ_BYTES: usize = 64 * 1024;
/// No head here is near this.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Header by which the backend says which of the two arms answered.
pub(super) const HEADER_ARM: &str = "x-arm";
/// Its value where the canary answered.
pub(super) const ARM_CANARY: &str = "canary";
/// Its value where the stable arm answered.
pub(super) const ARM_STABLE: &str = "stable";

/// Where a message's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(usize),
    Chunked,
}

/// What matters of a message's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The second word of the first line: a request's path, an answer's status.
    pub(super) word: String,
    pub(super) framing: Framing,
    /// Whether the canary answered; none where the message does not say.
    pub(super) canary: Option<bool>,
}

impl Head {
    /// Reads a head from the start of `bytes`; with it where the body begins.
    fn read(bytes: &[u8]) -> io::Result<Option<(Self, usize)>> {
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            return if bytes.len() > HEAD_BYTES_MAX {
                Err(invalid("a head without an end"))
            } else {
                Ok(None)
            };
        };
        let text = bytes.get(..end).unwrap_or_default();
        let text = std::str::from_utf8(text).map_err(|_| invalid("a head that is not text"))?;
        let mut lines = text.split("\r\n");
        let word = lines.next().and_then(|line| line.split(' ').nth(1));
        let mut head = Self {
            word: word.ok_or_else(|| invalid("no first line"))?.to_owned(),
            framing: Framing::Length(0),
            canary: None,
        };
        for line in lines {
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| invalid("a header without a colon"))?;
            head.take(name, value.trim())?;
        }
        Ok(Some((head, end + 4)))
    }

    fn take(&mut self, name: &str, value: &str) -> io::Result<()> {
        if name.eq_ignore_ascii_case("content-length") {
            let length = value.parse().map_err(|_| invalid("a malformed length"))?;
            self.framing = Framing::Length(length);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            self.framing = Framing::Chunked;
        } else if name.eq_ignore_ascii_case(HEADER_ARM) {
            self.canary = Some(value == ARM_CANARY);
        }
        Ok(())
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// What of the buffer is taken.
    at: usize,
}

impl Wire {
    pub(super) fn of(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
            at: 0,
        })
    }

    pub(super) async fn connect(address: impl ToSocketAddrs) -> io::Result<Self> {
        Self::of(TcpStream::connect(address).await?)
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    fn rest(&self) -> &[u8] {
        self.buffer.get(self.at..).unwrap_or_default()
    }

    /// Reads what is there; an error at the end of the stream.
    async fn more(&mut self) -> io::Result<()> {
        if self.at == self.buffer.len() {
            self.buffer.clear();
            self.at = 0;
        }
        // A read that does not fill its room tells the runtime that nothing is left.
        self.buffer.reserve(READ_BYTES);
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// The next message's head; an error of kind `UnexpectedEof` at the end of the stream.
    pub(super) async fn head(&mut self) -> io::Result<Head> {
        loop {
            if let Some((head, length)) = Head::read(self.rest())? {
                self.at += length;
                return Ok(head);
            }
            self.more().await?;
        }
    }

    /// Reads a body to its end and shows each part as it comes.
    pub(super) async fn body(
        &mut self,
        framing: Framing,
        mut each: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        match framing {
            Framing::Length(length) => self.part(length, &mut each).await,
            Framing::Chunked => loop {
                let length = self.chunk_length().await?;
                self.part(length, &mut each).await?;
                self.part(2, &mut |_| {}).await?;
                if length == 0 {
                    return Ok(());
                }
            },
        }
    }

    async fn part(&mut self, length: usize, each: &mut impl FnMut(&[u8])) -> io::Result<()> {
        let mut missing = length;
        while missing > 0 {
            let rest = self.rest();
            let part = rest.get(..missing.min(rest.len())).unwrap_or_default();
            if part.is_empty() {
                self.more().await?;
                continue;
            }
            each(part);
            let taken = part.len();
            self.at += taken;
            missing -= taken;
        }
        Ok(())
    }

    async fn chunk_length(&mut self) -> io::Result<usize> {
        loop {
            let rest = self.rest();
            if let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
                let line = rest.get(..end).unwrap_or_default();
                let text = std::str::from_utf8(line).unwrap_or_default();
                // Extensions follow a semicolon.
                let digits = text.split(';').next().unwrap_or_default().trim();
                let length = usize::from_str_radix(digits, 16)
                    .map_err(|_| invalid("a malformed chunk length"))?;
                self.at += end + 2;
                return Ok(length);
            }
            self.more().await?;
        }
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn a_head_is_read_whole_or_not_at_all() {
        let text = b"HTTP/1.1 200 OK\r\nX-Arm: canary\r\nContent-Length: 3\r\n\r\nabc";
        let (head, end) = Head::read(text).unwrap().unwrap();
        assert_eq!(head.word, "200");
        assert_eq!(head.framing, Framing::Length(3));
        assert_eq!(head.canary, Some(true));
        assert_eq!(&text[end..], b"abc");
        assert_eq!(Head::read(&text[..end - 1]).unwrap(), None);
        Head::read(b"GET / HTTP/1.1\r\nnonsense\r\n\r\n").unwrap_err();
    }

    #[tokio::test]
    async fn chunks_are_put_together_wherever_they_are_cut() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let sending = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut wire = Wire::of(stream).unwrap();
            let text = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;x=1\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n";
            for byte in text {
                wire.write(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
            wire
        });
        let mut wire = Wire::connect(address).await.unwrap();
        let head = wire.head().await.unwrap();
        let mut seen = Vec::new();
        wire.body(head.framing, |part| seen.extend_from_slice(part))
            .await
            .unwrap();
        assert_eq!(seen, b"abc0123456789");
        drop(sending.await.unwrap());
        let end = wire.head().await.unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    }
}
