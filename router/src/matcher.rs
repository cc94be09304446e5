//! Which rule takes a request: hostname first, then path, as Gateway API orders them.
//!
//! Pure. A port's requests go to the listener with the most specific hostname; within it hostnames
//! of routes go from exact over longer to shorter wildcards, and paths from exact over longer to
//! shorter prefixes. Ties go to the older route.

use std::collections::HashMap;
use std::sync::Arc;

use crate::table::Rule;

/// A hostname of a listener or route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// Every host.
    Any,
    /// `*.example.com`, held as `.example.com`.
    Wildcard(String),
    /// One host.
    Exact(String),
}

impl HostPattern {
    /// Reads a Gateway API hostname; none and the empty one mean every host.
    pub fn parse(hostname: Option<&str>) -> Self {
        match hostname.map(str::to_ascii_lowercase) {
            None => Self::Any,
            Some(host) if host.is_empty() || host == "*" => Self::Any,
            Some(host) => match host.strip_prefix('*') {
                Some(suffix) => Self::Wildcard(suffix.to_owned()),
                None => Self::Exact(host),
            },
        }
    }

    /// Whether `host`, in lower case and without a port, is meant.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Wildcard(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
            Self::Exact(exact) => exact == host,
        }
    }

    /// The hosts that both mean, if any.
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Any, both) | (both, Self::Any) => Some(both.clone()),
            (Self::Exact(host), pattern) | (pattern, Self::Exact(host)) => {
                pattern.matches(host).then(|| Self::Exact(host.clone()))
            }
            (Self::Wildcard(one), Self::Wildcard(two)) => {
                let (long, short) = if one.len() >= two.len() {
                    (one, two)
                } else {
                    (two, one)
                };
                long.ends_with(short.as_str())
                    .then(|| Self::Wildcard(long.clone()))
            }
        }
    }

    /// Orders the more specific first.
    fn specificity(&self) -> (u8, usize) {
        match self {
            Self::Any => (0, 0),
            Self::Wildcard(suffix) => (1, suffix.len()),
            Self::Exact(host) => (2, host.len()),
        }
    }
}

/// A path match. Exact is the more specific.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathMatch {
    /// This path and all below it, held without a trailing slash.
    Prefix(String),
    /// This path alone.
    Exact(String),
}

impl PathMatch {
    /// A prefix match by whole path elements.
    pub fn prefix(path: &str) -> Self {
        Self::Prefix(path.trim_end_matches('/').to_owned())
    }

    /// Whether the path of a request is meant.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == path,
            Self::Prefix(prefix) => path
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        }
    }

    /// Whether this means every path that `other` means.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(_), _) => self == other,
            // A request's path is never empty, but a prefix of all is.
            (Self::Prefix(_), Self::Prefix(path) | Self::Exact(path)) => self.matches(path),
        }
    }

    fn specificity(&self) -> (u8, usize) {
        match self {
            Self::Prefix(prefix) => (0, prefix.len()),
            Self::Exact(path) => (1, path.len()),
        }
    }
}

/// A rule at the path that leads to it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The path.
    pub path: PathMatch,
    /// The rule.
    pub rule: Arc<Rule>,
}

/// What listeners with one port and hostname serve.
#[derive(Clone, Debug)]
pub struct Site {
    listener: HostPattern,
    exact: HashMap<String, Vec<Entry>>,
    wildcard: HashMap<String, Vec<Entry>>,
    any: Vec<Entry>,
}

impl Site {
    fn new(listener: HostPattern) -> Self {
        Self {
            listener,
            exact: HashMap::new(),
            wildcard: HashMap::new(),
            any: Vec::new(),
        }
    }

    fn entries(&mut self, host: &HostPattern) -> &mut Vec<Entry> {
        match host {
            HostPattern::Any => &mut self.any,
            HostPattern::Wildcard(suffix) => self.wildcard.entry(suffix.clone()).or_default(),
            HostPattern::Exact(host) => self.exact.entry(host.clone()).or_default(),
        }
    }

    fn find(&self, host: &str, path: &str) -> Option<&Arc<Rule>> {
        let wildcards = host
            .match_indices('.')
            .filter(|(at, _)| *at > 0)
            .filter_map(|(at, _)| self.wildcard.get(host.get(at..)?));
        self.exact
            .get(host)
            .into_iter()
            // Dots from the left: the longest suffix first.
            .chain(wildcards)
            .chain([&self.any])
            .find_map(|entries| entries.iter().find(|entry| entry.path.matches(path)))
            .map(|entry| &entry.rule)
    }
}

/// Everything served on one port.
#[derive(Clone, Debug, Default)]
pub struct PortTable {
    sites: Vec<Site>,
}

impl PortTable {
    /// Adds a rule. Rules must come in order of precedence of their routes: older first.
    pub fn add(&mut self, listener: &HostPattern, host: &HostPattern, entry: Entry) {
        self.add_listener(listener);
        let Some(site) = self
            .sites
            .iter_mut()
            .find(|site| site.listener == *listener)
        else {
            return;
        };
        let entries = site.entries(host);
        // A route that attaches twice to one listener is one rule.
        let twin =
            |known: &Entry| known.path == entry.path && Arc::ptr_eq(&known.rule, &entry.rule);
        if !entries.iter().any(twin) {
            entries.push(entry);
        }
    }

    /// Adds a listener that may have no routes; it still takes its hosts' requests.
    pub fn add_listener(&mut self, listener: &HostPattern) {
        if !self.sites.iter().any(|site| site.listener == *listener) {
            self.sites.push(Site::new(listener.clone()));
        }
    }

    /// Brings everything into the order of precedence; call once, after the last `add`.
    pub fn sort(&mut self) {
        let by_path = |entries: &mut Vec<Entry>| {
            // Stable: equal paths stay in the order of their routes' age.
            entries.sort_by_key(|entry| std::cmp::Reverse(entry.path.specificity()));
        };
        self.sites
            .sort_by_key(|site| std::cmp::Reverse(site.listener.specificity()));
        for site in &mut self.sites {
            site.exact.values_mut().for_each(by_path);
            site.wildcard.values_mut().for_each(by_path);
            by_path(&mut site.any);
        }
    }

    /// The rule for a request; `host` in lower case and without a port.
    pub fn find(&self, host: &str, path: &str) -> Option<&Arc<Rule>> {
        self.sites
            .iter()
            .find(|site| site.listener.matches(host))
            .and_then(|site| site.find(host, path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rule(name: &str) -> Arc<Rule> {
        Arc::new(Rule::unserved(name))
    }

    fn table(rows: &[(&str, &str, PathMatch, &str)]) -> PortTable {
        let mut port = PortTable::default();
        for (listener, host, path, name) in rows {
            port.add(
                &HostPattern::parse(Some(listener)),
                &HostPattern::parse(Some(host)),
                Entry {
                    path: path.clone(),
                    rule: rule(name),
                },
            );
        }
        port.sort();
        port
    }

    fn found(port: &PortTable, host: &str, path: &str) -> String {
        port.find(host, path)
            .map_or_else(|| "-".to_owned(), |rule| rule.route.key.name.clone())
    }

    #[test]
    fn exact_path_then_longest_prefix_then_older_route() {
        let port = table(&[
            ("", "", PathMatch::prefix("/"), "root"),
            ("", "", PathMatch::prefix("/v1"), "v1"),
            ("", "", PathMatch::prefix("/v1/models/"), "models"),
            ("", "", PathMatch::Exact("/v1/models".to_owned()), "exact"),
            ("", "", PathMatch::prefix("/v1"), "younger"),
        ]);
        assert_eq!(found(&port, "a", "/"), "root");
        assert_eq!(found(&port, "a", "/v1"), "v1");
        assert_eq!(found(&port, "a", "/v12"), "root");
        assert_eq!(found(&port, "a", "/v1/models"), "exact");
        assert_eq!(found(&port, "a", "/v1/models/"), "models");
        assert_eq!(found(&port, "a", "/v1/x"), "v1");
    }

    #[test]
    fn exact_host_then_longest_wildcard_then_any() {
        let root = PathMatch::prefix("/");
        let port = table(&[
            ("", "", root.clone(), "any"),
            ("", "*.com", root.clone(), "com"),
            ("", "*.example.com", root.clone(), "wild"),
            ("", "a.example.com", PathMatch::prefix("/only"), "exact"),
        ]);
        assert_eq!(found(&port, "a.example.com", "/only"), "exact");
        assert_eq!(found(&port, "a.example.com", "/else"), "wild");
        assert_eq!(found(&port, "x.y.example.com", "/"), "wild");
        assert_eq!(found(&port, "example.com", "/"), "com");
        assert_eq!(found(&port, "com", "/"), "any");
    }

    #[test]
    fn a_more_specific_listener_keeps_its_hosts_to_itself() {
        let root = PathMatch::prefix("/");
        let port = table(&[
            ("", "", root.clone(), "open"),
            (
                "b.example.com",
                "b.example.com",
                PathMatch::prefix("/b"),
                "closed",
            ),
        ]);
        assert_eq!(found(&port, "b.example.com", "/b"), "closed");
        assert_eq!(found(&port, "b.example.com", "/other"), "-");
        assert_eq!(found(&port, "c.example.com", "/b"), "open");
    }

    #[test]
    fn wildcard_takes_no_bare_domain() {
        let wild = HostPattern::parse(Some("*.Example.com"));
        assert!(wild.matches("a.example.com"));
        assert!(!wild.matches("example.com"));
        assert!(!wild.matches(".example.com"));
        assert!(!wild.matches("badexample.com"));
    }

    fn pattern() -> impl Strategy<Value = HostPattern> {
        prop_oneof![Just(None), "(\\*\\.)?([ab]\\.){0,2}[ab]".prop_map(Some),]
            .prop_map(|text| HostPattern::parse(text.as_deref()))
    }

    proptest! {
        #[test]
        fn intersection_means_exactly_the_hosts_of_both(one in pattern(), two in pattern(), host in "([ab]\\.){0,3}[ab]") {
            let both = one.matches(&host) && two.matches(&host);
            let met = one.intersect(&two).is_some_and(|pattern| pattern.matches(&host));
            prop_assert_eq!(both, met);
        }
    }
}
