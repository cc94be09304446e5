//! What one request asks of the backend, and the records that a stream is made of.

use std::{fmt::Write as _, time::Instant};

/// The host that the route and the peers serve.
pub(super) const HOST: &str = "bench.example.com";
/// Header with the user key that the split is drawn by.
const HEADER_USER: &str = "x-user-id";
/// Users that ask. More than any table of a proxy's would hold by accident.
const USERS: u64 = 100_000;
/// Bytes of one record of a stream: about one event with a token in it.
pub(super) const RECORD_BYTES: usize = 64;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exchange {
    /// An answer of so many bytes.
    Answer { bytes: usize },
    /// A prompt of so many bytes, and records at a steady pace for it.
    Stream {
        prompt: usize,
        records: u32,
        every_millis: u64,
    },
}

impl Exchange {
    /// The path that tells it to the backend.
    fn path(self) -> String {
        match self {
            Self::Answer { bytes } => format!("/b/{bytes}"),
            Self::Stream {
                prompt: _,
                records,
                every_millis,
            } => format!("/s/{records}/{every_millis}"),
        }
    }

    /// What a path asks for.
    pub(super) fn of_path(path: &str) -> Option<Self> {
        let mut words = path.strip_prefix('/')?.split('/');
        match words.next()? {
            "b" => Some(Self::Answer {
                bytes: words.next()?.parse().ok()?,
            }),
            "s" => Some(Self::Stream {
                prompt: 0,
                records: words.next()?.parse().ok()?,
                every_millis: words.next()?.parse().ok()?,
            }),
            _ => None,
        }
    }
}

/// The requests of one connection: the same bytes each time, but for the user.
#[derive(Clone, Debug)]
pub(super) struct Requests {
    bytes: Vec<u8>,
    /// Where the user key is.
    user: std::ops::Range<usize>,
    state: u64,
}

impl Requests {
    pub(super) fn new(exchange: Exchange, seed: u64) -> Self {
        let prompt = match exchange {
            Exchange::Answer { bytes: _ } => 0,
            Exchange::Stream { prompt, .. } => prompt,
        };
        let method = if prompt == 0 { "GET" } else { "POST" };
        let mut head = format!(
            "{method} {} HTTP/1.1\r\nhost: {HOST}\r\n{HEADER_USER}: u",
            exchange.path()
        );
        let start = head.len();
        head.push_str("0000000000\r\naccept: */*\r\n");
        if prompt > 0 {
            // Writing to a String cannot fail.
            write!(
                head,
                "content-type: application/json\r\ncontent-length: {prompt}\r\n"
            )
            .unwrap_or_default();
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.resize(bytes.len() + prompt, b'x');
        Self {
            bytes,
            user: start..start + 10,
            // Zero is the one state that such a generator never leaves.
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    /// The next request, of some user.
    pub(super) fn next(&mut self) -> &[u8] {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let mut user = self.state % USERS;
        if let Some(place) = self.bytes.get_mut(self.user.clone()) {
            for digit in place.iter_mut().rev() {
                *digit = b"0123456789"
                    .get(usize::try_from(user % 10).unwrap_or_default())
                    .copied()
                    .unwrap_or(b'0');
                user /= 10;
            }
        }
        &self.bytes
    }
}

/// A clock that backend and load share: they are one process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since the start.
    pub(super) fn now(self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// A record that says when it was sent.
pub(super) fn record(sent: u64) -> String {
    let mut text = format!("data: {sent:016x}");
    while text.len() < RECORD_BYTES - 2 {
        text.push('.');
    }
    text.push_str("\n\n");
    text
}

/// Finds the records in a stream that comes in parts.
#[derive(Debug, Default)]
pub(super) struct Records {
    part: Vec<u8>,
}

impl Records {
    /// Tells for each record that is whole when it was sent.
    pub(super) fn take(&mut self, bytes: &[u8], mut each: impl FnMut(u64)) {
        self.part.extend_from_slice(bytes);
        let mut whole = self.part.chunks_exact(RECORD_BYTES);
        for record in whole.by_ref() {
            let digits = record
                .get(6..22)
                .and_then(|it| std::str::from_utf8(it).ok());
            if let Some(sent) = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()) {
                each(sent);
            }
        }
        self.part = whole.remainder().to_vec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_say_what_is_asked_for() {
        let stream = Exchange::Stream {
            prompt: 0,
            records: 5,
            every_millis: 10,
        };
        for exchange in [Exchange::Answer { bytes: 100 }, stream] {
            assert_eq!(Exchange::of_path(&exchange.path()), Some(exchange));
        }
        assert_eq!(Exchange::of_path("/x/1"), None);
    }

    #[test]
    fn requests_differ_in_their_user_alone() {
        let stream = Exchange::Stream {
            prompt: 7,
            records: 1,
            every_millis: 1,
        };
        let mut requests = Requests::new(stream, 3);
        let (one, two) = (requests.next().to_vec(), requests.next().to_vec());
        assert_ne!(one, two);
        assert_eq!(one.len(), two.len());
        let text = String::from_utf8(one).unwrap();
        assert!(text.starts_with("POST /s/1/1 HTTP/1.1\r\n"), "{text}");
        assert!(text.ends_with("content-length: 7\r\n\r\nxxxxxxx"), "{text}");
    }

    #[test]
    fn records_are_found_wherever_they_are_cut() {
        let text = record(7) + &record(9);
        assert_eq!(text.len(), 2 * RECORD_BYTES);
        let mut records = Records::default();
        let mut sent = Vec::new();
        for part in text.as_bytes().chunks(13) {
            records.take(part, |at| sent.push(at));
        }
        assert_eq!(sent, [7, 9]);
    }
}
