//! Whose token it is: asked of the API server, remembered for a minute.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crds::contract::ROUTER_AUDIENCE;
use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::debug;

/// How long an answer holds.
const KEEP: Duration = Duration::from_mins(1);
/// From then on it is asked for again while the old one holds, so that no word of the leader waits
/// for the API server.
const RENEW: Duration = Duration::from_secs(30);
/// How long a refusal holds: the API server also refuses what it could not check just then, and the
/// leader of a minute must not stay out for it.
const KEEP_REFUSED: Duration = Duration::from_secs(5);
const KEPT_MAX: usize = 64;
/// Whoever can reach the listener can make us ask; more at once wait.
const REVIEWS_AT_ONCE: usize = 2;
const REVIEW_TIMEOUT: Duration = Duration::from_secs(3);
/// Tokens of service accounts are about a kilobyte.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Whom a token belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reviewed {
    /// Name of the user.
    pub user: String,
    /// The audiences that it is for, of those that were asked about.
    pub audiences: Vec<String>,
}

/// Asks whose a token is, for our audience.
pub trait Review: Send + Sync {
    /// The user; none: the token is nobody's. An error: nobody could say.
    fn review(&self, token: String) -> BoxFuture<'static, Result<Option<Reviewed>, String>>;
}

/// Why somebody was not admitted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no token, or it is not the leader's.
    #[error("there is no token, or it is not the operator's for audience {ROUTER_AUDIENCE}")]
    Token,
    /// The API server did not say.
    #[error("the token could not be reviewed: {0}")]
    Unknown(String),
}

/// Who may hear and tell.
#[derive(Debug)]
pub enum Auth {
    /// Everybody: for tests alone.
    Open,
    /// Whoever shows the token of one service account.
    Reviewed(Gate),
}

impl Auth {
    /// Whether the bearer of a token may pass.
    pub async fn admit(&self, token: Option<&str>) -> Result<(), Refused> {
        match self {
            Self::Open => Ok(()),
            Self::Reviewed(gate) => gate.admit(token.ok_or(Refused::Token)?).await,
        }
    }
}

/// Lets one user pass.
#[derive(Clone)]
pub struct Gate(Arc<Inner>);

struct Inner {
    user: String,
    reviews: Box<dyn Review>,
    at_once: Semaphore,
    kept: Mutex<Kept>,
}

/// Answers by the tokens' hashes: no token is kept.
type Kept = BTreeMap<[u8; 32], Answer>;

#[derive(Debug)]
struct Answer {
    admitted: bool,
    at: Instant,
    renewing: bool,
}

impl Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("user", &self.0.user)
            .finish_non_exhaustive()
    }
}

/// What is remembered of a token.
enum Known {
    Admitted { renew: bool },
    Refused,
    Nothing,
}

impl Gate {
    /// Lets a service account pass.
    pub fn new(namespace: &str, service_account: &str, reviews: Box<dyn Review>) -> Self {
        Self(Arc::new(Inner {
            user: format!("system:serviceaccount:{namespace}:{service_account}"),
            reviews,
            at_once: Semaphore::new(REVIEWS_AT_ONCE),
            kept: Mutex::default(),
        }))
    }

    async fn admit(&self, token: &str) -> Result<(), Refused> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Refused::Token);
        }
        let hash: [u8; 32] = Sha256::digest(token).into();
        match self.known(&hash) {
            Known::Admitted { renew } => {
                if renew {
                    self.renew(hash, token.to_owned());
                }
                Ok(())
            }
            Known::Refused => Err(Refused::Token),
            Known::Nothing => {
                let admitted = self.ask(token.to_owned()).await.map_err(Refused::Unknown)?;
                self.keep(hash, admitted);
                admitted.then_some(()).ok_or(Refused::Token)
            }
        }
    }

    fn known(&self, hash: &[u8; 32]) -> Known {
        let mut kept = self.kept();
        let Some(answer) = kept.get_mut(hash) else {
            return Known::Nothing;
        };
        let age = answer.at.elapsed();
        let keep = if answer.admitted { KEEP } else { KEEP_REFUSED };
        if age >= keep {
            Known::Nothing
        } else if answer.admitted {
            let renew = age >= RENEW && !answer.renewing;
            answer.renewing |= renew;
            Known::Admitted { renew }
        } else {
            Known::Refused
        }
    }

    /// Asks again while the old answer holds. What cannot be said leaves it to run out.
    fn renew(&self, hash: [u8; 32], token: String) {
        let gate = self.clone();
        tokio::spawn(async move {
            match gate.ask(token).await {
                Ok(admitted) => gate.keep(hash, admitted),
                Err(error) => {
                    debug!(error, "the leader's token could not be reviewed again");
                    if let Some(answer) = gate.kept().get_mut(&hash) {
                        answer.renewing = false;
                    }
                }
            }
        });
    }

    async fn ask(&self, token: String) -> Result<bool, String> {
        let asking = async {
            let permit = self.0.at_once.acquire().await;
            let permit = permit.map_err(|error| error.to_string())?;
            let reviewed = self.0.reviews.review(token).await;
            drop(permit);
            reviewed
        };
        let reviewed = tokio::time::timeout(REVIEW_TIMEOUT, asking).await;
        let reviewed = reviewed.map_err(|_| "no answer in time".to_owned())??;
        Ok(reviewed.is_some_and(|it| {
            // A server that does not know audiences says none, and the token may be for anything.
            it.user == self.0.user && it.audiences.iter().any(|it| it == ROUTER_AUDIENCE)
        }))
    }

    fn keep(&self, hash: [u8; 32], admitted: bool) {
        let mut kept = self.kept();
        if kept.len() >= KEPT_MAX {
            kept.retain(|_, answer| answer.at.elapsed() < KEEP);
        }
        if kept.len() >= KEPT_MAX {
            // The leader's own answer is the last to go.
            let oldest = kept.iter().min_by_key(|(_, it)| (it.admitted, it.at));
            if let Some(oldest) = oldest.map(|(hash, _)| *hash) {
                kept.remove(&oldest);
            }
        }
        let answer = Answer {
            admitted,
            at: Instant::now(),
            renewing: false,
        };
        kept.insert(hash, answer);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the API server.
#[derive(Clone)]
pub struct TokenReviews(pub Client);

impl Debug for TokenReviews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenReviews")
    }
}

impl Review for TokenReviews {
    fn review(&self, token: String) -> BoxFuture<'static, Result<Option<Reviewed>, String>> {
        let reviews: Api<TokenReview> = Api::all(self.0.clone());
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![ROUTER_AUDIENCE.to_owned()]),
                token: Some(token),
            },
            ..TokenReview::default()
        };
        Box::pin(async move {
            let created = reviews.create(&PostParams::default(), &review).await;
            let answer = created.map_err(|error| error.to_string())?;
            let status = answer.status.unwrap_or_default();
            if status.authenticated != Some(true) {
                return Ok(None);
            }
            Ok(Some(Reviewed {
                user: status
                    .user
                    .and_then(|user| user.username)
                    .unwrap_or_default(),
                audiences: status.audiences.unwrap_or_default(),
            }))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const OPERATOR: &str = "system:serviceaccount:sluice-system:sluice-operator";

    struct Fake {
        answer: Result<Option<Reviewed>, String>,
        asked: Arc<AtomicUsize>,
    }

    impl Review for Fake {
        fn review(&self, _: String) -> BoxFuture<'static, Result<Option<Reviewed>, String>> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            Box::pin(std::future::ready(self.answer.clone()))
        }
    }

    fn gate(answer: Result<Option<Reviewed>, String>) -> (Gate, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let fake = Fake {
            answer,
            asked: Arc::clone(&asked),
        };
        let gate = Gate::new("sluice-system", "sluice-operator", Box::new(fake));
        (gate, asked)
    }

    fn user(name: &str, audience: &str) -> Reviewed {
        Reviewed {
            user: name.to_owned(),
            audiences: vec![audience.to_owned()],
        }
    }

    #[tokio::test]
    async fn only_the_operator_with_a_token_for_routers_passes_and_is_asked_about_once() {
        let (gate, asked) = gate(Ok(Some(user(OPERATOR, ROUTER_AUDIENCE))));
        for _ in 0..3 {
            gate.admit("token").await.unwrap();
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        gate.admit("another").await.unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        let closed = Auth::Reviewed(gate);
        assert_eq!(closed.admit(None).await, Err(Refused::Token));
    }

    #[tokio::test]
    async fn others_are_refused_and_remembered() {
        let wrong = [
            None,
            Some(user(
                "system:serviceaccount:ml:sluice-operator",
                ROUTER_AUDIENCE,
            )),
            Some(user(OPERATOR, "https://kubernetes.default.svc")),
            Some(Reviewed {
                user: OPERATOR.to_owned(),
                audiences: Vec::new(),
            }),
        ];
        for answer in wrong {
            let (gate, asked) = gate(Ok(answer));
            assert_eq!(gate.admit("token").await, Err(Refused::Token));
            assert_eq!(gate.admit("token").await, Err(Refused::Token));
            assert_eq!(asked.load(Ordering::Relaxed), 1);
        }
    }

    #[tokio::test]
    async fn who_was_refused_may_ask_again_soon() {
        let (gate, asked) = gate(Ok(Some(user(OPERATOR, ROUTER_AUDIENCE))));
        let refused = |ago: Duration| Answer {
            admitted: false,
            at: Instant::now().checked_sub(ago).unwrap(),
            renewing: false,
        };
        let hash: [u8; 32] = Sha256::digest("token").into();
        gate.kept().insert(hash, refused(Duration::from_secs(1)));
        assert_eq!(gate.admit("token").await, Err(Refused::Token));
        gate.kept().insert(hash, refused(KEEP_REFUSED));
        gate.admit("token").await.unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn what_nobody_can_say_admits_nobody_and_is_asked_again() {
        let (gate, asked) = gate(Err("connection refused".to_owned()));
        for _ in 0..2 {
            let refused = gate.admit("token").await.unwrap_err();
            assert_eq!(refused, Refused::Unknown("connection refused".to_owned()));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        let long = "x".repeat(TOKEN_BYTES_MAX + 1);
        assert_eq!(gate.admit(&long).await, Err(Refused::Token));
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_flood_of_tokens_is_kept_in_bounds_and_leaves_the_leaders() {
        let (gate, asked) = gate(Ok(None));
        gate.keep(Sha256::digest("leader").into(), true);
        for n in 0..KEPT_MAX * 2 {
            assert_eq!(gate.admit(&n.to_string()).await, Err(Refused::Token));
        }
        assert!(gate.kept().len() <= KEPT_MAX);
        let before = asked.load(Ordering::Relaxed);
        gate.admit("leader").await.unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), before);
    }
}
