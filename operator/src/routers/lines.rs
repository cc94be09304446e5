//! Lines out of chunks, in bounded memory.

use bytes::{Bytes, BytesMut};

/// Cuts what arrives into lines.
#[derive(Debug)]
pub(super) struct Lines {
    rest: BytesMut,
    /// So many bytes of `rest` hold no end of a line.
    searched: usize,
    longest: usize,
}

/// A line is longer than it may be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a line is longer than {0} bytes")]
pub(super) struct TooLong(usize);

impl Lines {
    pub(super) fn new(longest: usize) -> Self {
        Self {
            rest: BytesMut::new(),
            searched: 0,
            longest,
        }
    }

    /// Adds what arrived. To be emptied of lines by [`Self::next`] before the next chunk.
    pub(super) fn push(&mut self, chunk: &[u8]) -> Result<(), TooLong> {
        if self.rest.len().saturating_add(chunk.len()) > self.longest {
            return Err(TooLong(self.longest));
        }
        self.rest.extend_from_slice(chunk);
        Ok(())
    }

    /// The next whole line, without its end.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        let new = self.rest.get(self.searched..).unwrap_or_default();
        let Some(end) = new.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.rest.len();
            return None;
        };
        let mut line = self.rest.split_to(self.searched + end + 1);
        self.searched = 0;
        line.truncate(line.len() - 1);
        Some(line.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(lines: &mut Lines, chunk: &[u8]) -> Vec<String> {
        lines.push(chunk).unwrap();
        std::iter::from_fn(|| lines.next())
            .map(|line| String::from_utf8(line.to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn lines_are_whole_wherever_chunks_are_cut() {
        let mut lines = Lines::new(100);
        assert!(all(&mut lines, b"ab").is_empty());
        assert_eq!(all(&mut lines, b"c\nde\n\nf"), ["abc", "de", ""]);
        assert_eq!(all(&mut lines, b"\n"), ["f"]);
    }

    #[test]
    fn a_line_without_end_is_not_kept() {
        let mut lines = Lines::new(8);
        lines.push(b"12345678").unwrap();
        assert_eq!(lines.next(), None);
        assert_eq!(lines.push(b"9"), Err(TooLong(8)));
    }
}
