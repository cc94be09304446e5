//! What users saw, against what the routers counted.

use std::{collections::BTreeSet, fmt::Write as _};

use anyhow::bail;

use crate::{load::stats::Stats, router::Counts};

/// What users saw, and what the routers counted.
pub(crate) struct Report<'a> {
    /// What the versions are called, and their revisions.
    pub(crate) names: &'a [(&'a str, &'a str)],
    /// What users saw.
    pub(crate) stats: &'a Stats,
    /// What the routers counted.
    pub(crate) counted: &'a Counts,
}

impl Report<'_> {
    /// One line for each version.
    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "{:<4} {:<24} {:>9} {:>9} {:>8} {:>10}\n",
            "", "REVISION", "REQUESTS", "ROUTERS", "FAILED", "RIGHT"
        );
        for (name, revision) in self.names {
            let stats = self
                .stats
                .revisions
                .get(*revision)
                .cloned()
                .unwrap_or_default();
            let counted: u64 = self
                .counted
                .iter()
                .filter(|((counted, _), _)| counted == revision)
                .map(|(_, count)| count)
                .sum();
            let right = stats
                .accuracy_percent()
                .map_or_else(|| "-".to_owned(), |share| format!("{share:.1} %"));
            // Writing to a String cannot fail.
            writeln!(
                text,
                "{name:<4} {revision:<24} {:>9} {counted:>9} {:>8} {right:>10}",
                stats.total(),
                stats.failed(),
            )
            .unwrap_or_default();
        }
        text
    }

    /// Both must agree, revision by revision and code by code.
    pub(crate) fn compare(&self) -> anyhow::Result<()> {
        let seen: Counts = self
            .stats
            .revisions
            .iter()
            .flat_map(|(revision, stats)| {
                stats
                    .codes
                    .iter()
                    .map(move |(code, count)| ((revision.clone(), *code), *count))
            })
            .collect();
        let keys: BTreeSet<_> = seen.keys().chain(self.counted.keys()).collect();
        let mut differences = String::new();
        for key in keys {
            let [users, routers] =
                [&seen, self.counted].map(|counts| counts.get(key).copied().unwrap_or(0));
            if users != routers {
                let (revision, code) = key;
                let revision = if revision.is_empty() {
                    "no revision"
                } else {
                    revision
                };
                writeln!(
                    differences,
                    "  {revision}, {code}: users saw {users}, routers counted {routers}"
                )
                .unwrap_or_default();
            }
        }
        if differences.is_empty() {
            return Ok(());
        }
        bail!("the load driver and the routers disagree:\n{differences}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::stats::RevisionStats;

    #[test]
    fn users_and_routers_must_agree_in_every_code() {
        let mut stats = Stats::default();
        let codes = [(200, 7), (500, 2)].into();
        stats.revisions.insert(
            "m-1".to_owned(),
            RevisionStats {
                codes,
                ..RevisionStats::default()
            },
        );
        let mut counted: Counts =
            [(("m-1".to_owned(), 200), 7), (("m-1".to_owned(), 500), 2)].into();
        let names = [("v1", "m-1")];
        Report {
            names: &names,
            stats: &stats,
            counted: &counted,
        }
        .compare()
        .unwrap();
        counted.insert((String::new(), 404), 1);
        let report = Report {
            names: &names,
            stats: &stats,
            counted: &counted,
        };
        let error = report.compare().unwrap_err().to_string();
        assert!(
            error.contains("no revision, 404: users saw 0, routers counted 1"),
            "{error}"
        );
        assert!(report.table().contains("m-1"));
    }
}
