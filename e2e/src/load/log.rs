//! Every answer, one by one, within a bound on memory.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::load::stats::Stats;

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Start of the request, in ms since the epoch.
    pub t: u64,
    /// How long it took, in ms.
    pub d_ms: u64,
    /// The user.
    pub user: u32,
    /// Status; 0: there was no answer.
    pub code: u16,
    /// Why there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The revision that answered, if the answer says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Whether the answer was right, if that could be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correct: Option<bool>,
}

/// Answers in the order in which they came.
#[derive(Debug)]
pub(crate) struct Log {
    limit: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    stats: Stats,
    entries: VecDeque<Packed>,
    /// How many of the oldest are no longer there.
    dropped: u64,
    texts: Texts,
}

/// Millions of them are kept: texts are numbers.
#[derive(Clone, Copy, Debug)]
struct Packed {
    t: u64,
    d_ms: u32,
    user: u32,
    code: u16,
    error: u16,
    revision: u16,
    correct: Option<bool>,
}

/// Texts that occur again and again. The number 0 stands for none.
#[derive(Debug, Default)]
struct Texts {
    numbers: BTreeMap<String, u16>,
    texts: Vec<String>,
}

/// Most texts that are told apart.
const TEXTS_MAX: usize = 10_000;

impl Texts {
    fn number(&mut self, text: Option<&str>) -> u16 {
        let Some(text) = text else { return 0 };
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        if self.texts.len() >= TEXTS_MAX {
            return 0;
        }
        self.texts.push(text.to_owned());
        let number = u16::try_from(self.texts.len()).unwrap_or(0);
        self.numbers.insert(text.to_owned(), number);
        number
    }

    fn text(&self, number: u16) -> Option<String> {
        self.texts.get(usize::from(number).checked_sub(1)?).cloned()
    }
}

impl Log {
    /// Keeps at most `limit` answers.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            inner: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an answer.
    pub(crate) fn add(&self, entry: &Entry) {
        let mut inner = self.lock();
        inner.stats.add(entry);
        let packed = Packed {
            t: entry.t,
            d_ms: u32::try_from(entry.d_ms).unwrap_or(u32::MAX),
            user: entry.user,
            code: entry.code,
            error: inner.texts.number(entry.error.as_deref()),
            revision: inner.texts.number(entry.revision.as_deref()),
            correct: entry.correct,
        };
        if inner.entries.len() >= self.limit {
            inner.entries.pop_front();
            inner.dropped += 1;
        }
        inner.entries.push_back(packed);
    }

    /// What the answers come to.
    pub(crate) fn stats(&self) -> Stats {
        self.lock().stats.clone()
    }

    /// Up to `most` answers from number `since` on, and the number that comes after them.
    pub(crate) fn since(&self, since: u64, most: usize) -> (Vec<Entry>, u64) {
        let inner = self.lock();
        let first = since.max(inner.dropped);
        let skip = usize::try_from(first - inner.dropped).unwrap_or(usize::MAX);
        let entries: Vec<Entry> = inner
            .entries
            .iter()
            .skip(skip)
            .take(most)
            .map(|packed| Entry {
                t: packed.t,
                d_ms: packed.d_ms.into(),
                user: packed.user,
                code: packed.code,
                error: inner.texts.text(packed.error),
                revision: inner.texts.text(packed.revision),
                correct: packed.correct,
            })
            .collect();
        let next = first + u64::try_from(entries.len()).unwrap_or(0);
        (entries, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(t: u64) -> Entry {
        Entry {
            t,
            d_ms: 3,
            user: 7,
            code: if t.is_multiple_of(2) { 200 } else { 0 },
            error: (!t.is_multiple_of(2)).then(|| "timed out".to_owned()),
            revision: t.is_multiple_of(2).then(|| "digits-1-a".to_owned()),
            correct: t.is_multiple_of(2).then_some(true),
        }
    }

    #[test]
    fn entries_come_back_as_they_went_in_and_page_by_page() {
        let log = Log::new(100);
        (0..5).for_each(|t| log.add(&entry(t)));
        let (first, next) = log.since(0, 2);
        assert_eq!((first, next), (vec![entry(0), entry(1)], 2));
        let (rest, next) = log.since(next, 100);
        assert_eq!((rest, next), (vec![entry(2), entry(3), entry(4)], 5));
        assert_eq!(log.since(5, 100), (vec![], 5));
    }

    #[test]
    fn the_oldest_go_first_and_everything_is_counted() {
        let log = Log::new(3);
        (0..10).for_each(|t| log.add(&entry(t)));
        let (kept, next) = log.since(0, 100);
        assert_eq!(kept.first(), Some(&entry(7)));
        assert_eq!((kept.len(), next), (3, 10));
        assert_eq!(log.stats().ended, 10);
    }

    #[test]
    fn a_line_of_the_log_is_short_where_there_is_nothing_to_say() {
        let mut entry = entry(2);
        entry.correct = None;
        assert_eq!(
            serde_json::to_string(&entry).unwrap(),
            r#"{"t":2,"d_ms":3,"user":7,"code":200,"revision":"digits-1-a"}"#
        );
    }
}
