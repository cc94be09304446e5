//! Queries to Prometheus, or to what speaks its HTTP API.

use std::path::PathBuf;

use anyhow::Context as _;
use futures::future;
use http::{HeaderName, HeaderValue, header::AUTHORIZATION};
use jiff::Timestamp;
use prometheus_http_query::Client;
use rollout::guardrail::{self, Answer, PrometheusCheck, Reading, Subject};
use serde::Deserialize;

use super::source::Source;
use crate::error::brief;

/// The most that an answer may hold: one number is asked for.
const LARGEST_ANSWER: usize = 1 << 20;

/// Asks metrics servers.
#[derive(Clone, Debug)]
pub struct Prometheus {
    http: reqwest::Client,
    credentials: Option<PathBuf>,
}

impl Prometheus {
    /// Asks with the credentials that are mounted under a folder.
    pub fn new(credentials: Option<PathBuf>) -> anyhow::Result<Self> {
        Ok(Self {
            http: http_client(|builder| builder)?,
            credentials,
        })
    }

    /// What a server says for a guardrail: its value and its samples.
    pub async fn read(
        &self,
        source: &Source,
        check: &PrometheusCheck,
        subject: &Subject,
        (since, now): (Timestamp, Timestamp),
    ) -> Reading {
        let window = check.query_window(since, now);
        let value = guardrail::fill(&check.value, subject, window);
        let samples = guardrail::fill(&check.samples, subject, window);
        let answers = future::try_join(self.query(source, &value), self.query(source, &samples));
        let answers = match tokio::time::timeout(source.timeout, answers).await {
            Ok(answers) => answers,
            Err(_) => Err(format!("no answer within {:?}", source.timeout)),
        };
        let answers = answers.map_err(|problem| brief(&problem));
        Reading {
            at: now,
            window,
            answers,
        }
    }

    async fn query(&self, source: &Source, query: &str) -> Result<Answer, String> {
        let client = Client::from(self.http.clone(), &source.url)
            .map_err(|error| format!("the address cannot be used: {error}"))?;
        let timeout = i64::try_from(source.timeout.as_millis()).unwrap_or(i64::MAX);
        let mut request = client.query(query).timeout(timeout);
        for (name, value) in &source.headers {
            let parsed = HeaderName::try_from(name)
                .ok()
                .zip(HeaderValue::try_from(value).ok());
            let (name, value) =
                parsed.ok_or_else(|| format!("the header {name:?} cannot be sent"))?;
            request = request.header(name, value);
        }
        if let Some(mount) = &source.mount {
            request = request.header(AUTHORIZATION, self.bearer(mount).await?);
        }
        let response = request.post_raw().await.map_err(|error| sentence(&error))?;
        let status = response.status();
        let body = capped(response, LARGEST_ANSWER).await?;
        match parse(&body) {
            Ok(answer) if status.is_success() => Ok(answer),
            // A server that explains itself says more than its status.
            Err(problem) if problem.is_explained => Err(problem.text),
            Ok(_) | Err(_) if !status.is_success() => Err(format!("the server answers {status}")),
            Err(problem) => Err(problem.text),
            Ok(_) => Err(format!("the server answers {status}")),
        }
    }

    async fn bearer(&self, mount: &str) -> Result<HeaderValue, String> {
        let folder = self.credentials.as_ref().ok_or_else(|| {
            format!("credentials {mount:?} are not mounted: add them to operator.metricCredentials")
        })?;
        // The name is from an object: a path in it must lead nowhere else.
        if mount.is_empty()
            || !mount
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        {
            return Err(format!("{mount:?} is no name of mounted credentials"));
        }
        let token = tokio::fs::read_to_string(folder.join(mount).join("token"))
            .await
            .map_err(|error| format!("credentials {mount:?} cannot be read: {error}"))?;
        let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim()))
            .map_err(|_| format!("the token of credentials {mount:?} is no header value"))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// A client that follows no redirects: an address is what an administrator has named.
pub fn http_client(
    with: impl Fn(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
) -> anyhow::Result<reqwest::Client> {
    let builder = || {
        with(
            reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .user_agent(concat!("sluice-operator/", env!("CARGO_PKG_VERSION"))),
        )
    };
    builder().build().or_else(|error| {
        tracing::warn!(%error, "no CA certificates: only plain http:// addresses can be asked");
        builder()
            .tls_certs_only([])
            .build()
            .context("no HTTP client can be made")
    })
}

/// A body, unless it is larger than it may be.
pub async fn capped(mut response: reqwest::Response, most: usize) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| sentence(&error))? {
        if body.len() + chunk.len() > most {
            return Err(format!("the answer is larger than {most} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// An error with all its causes: the outermost alone says little.
pub fn sentence(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

#[derive(Debug, Deserialize)]
struct Envelope {
    status: String,
    data: Option<Data>,
    error: Option<String>,
    warnings: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
enum Data {
    Vector(Vec<Series>),
    Scalar(Sample),
    Matrix(serde::de::IgnoredAny),
    String(serde::de::IgnoredAny),
}

#[derive(Debug, Deserialize)]
struct Series {
    value: Option<Sample>,
}

/// Seconds of the evaluation, and the value as text.
#[derive(Debug, Deserialize)]
struct Sample(f64, String);

#[derive(Debug, PartialEq, Eq)]
struct Problem {
    text: String,
    is_explained: bool,
}

/// Reads an answer.
fn parse(body: &[u8]) -> Result<Answer, Problem> {
    let unexplained = |text: String| Problem {
        text,
        is_explained: false,
    };
    let envelope: Envelope =
        serde_json::from_slice(body).map_err(|error| unexplained(unreadable(&error)))?;
    if envelope.status != "success" {
        let text = envelope
            .error
            .unwrap_or_else(|| "the server gives no reason".to_owned());
        return Err(Problem {
            text,
            is_explained: true,
        });
    }
    if let Some(warning) = partial(envelope.warnings.iter().flatten()) {
        return Err(Problem {
            text: format!("the answer may be partial: {warning}"),
            is_explained: true,
        });
    }
    let samples = match envelope.data {
        Some(Data::Vector(series)) => series
            .into_iter()
            .map(|series| series.value)
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| {
                unexplained("the query gives histograms where numbers are expected".to_owned())
            })?,
        Some(Data::Scalar(sample)) => vec![sample],
        Some(Data::Matrix(_) | Data::String(_)) => {
            return Err(unexplained(
                "the query must give an instant vector or a scalar".to_owned(),
            ));
        }
        None => return Err(unexplained("the answer holds no data".to_owned())),
    };
    let evaluated_at = samples.first().and_then(|sample| instant(sample.0));
    // Text that is no number is not a number.
    let series = samples.iter().map(|sample| number(&sample.1)).collect();
    Ok(Answer {
        series,
        evaluated_at,
    })
}

/// Where an answer stops making sense. What it holds there is not passed on.
fn unreadable(error: &serde_json::Error) -> String {
    format!(
        "the answer is not Prometheus's ({:?} error in line {}, column {})",
        error.classify(),
        error.line(),
        error.column()
    )
}

/// The first warning that casts doubt on the value. Older servers also send remarks on the query as
/// warnings.
fn partial<'a>(warnings: impl IntoIterator<Item = &'a String>) -> Option<&'a String> {
    warnings
        .into_iter()
        .find(|warning| !warning.starts_with("PromQL info:"))
}

fn number(text: &str) -> f64 {
    match text {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        other => other.parse().unwrap_or(f64::NAN),
    }
}

fn instant(seconds: f64) -> Option<Timestamp> {
    jiff::SignedDuration::try_from_secs_f64(seconds)
        .ok()
        .and_then(|since| Timestamp::from_duration(since).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_and_scalars_are_read() {
        let vector = br#"{"status":"success","data":{"resultType":"vector","result":[
            {"metric":{},"value":[1700000000.5,"0.25"]},{"metric":{"a":"b"},"value":[1700000000.5,"NaN"]}]}}"#;
        let answer = parse(vector).unwrap();
        assert!((answer.series[0] - 0.25).abs() < 1e-9);
        assert!(answer.series[1].is_nan());
        let at = answer.evaluated_at.unwrap();
        assert_eq!(at.as_millisecond(), 1_700_000_000_500);
        let scalar = br#"{"status":"success","data":{"resultType":"scalar","result":[1,"+Inf"]}}"#;
        assert!(parse(scalar).unwrap().series[0].is_infinite());
        let empty = br#"{"status":"success","data":{"resultType":"vector","result":[]}}"#;
        assert_eq!(
            parse(empty),
            Ok(Answer {
                series: vec![],
                evaluated_at: None
            })
        );
    }

    #[test]
    fn what_is_no_answer_is_a_problem() {
        let refused =
            br#"{"status":"error","errorType":"bad_data","error":"parse error at char 4"}"#;
        let problem = parse(refused).unwrap_err();
        assert!(
            problem.is_explained && problem.text.contains("char 4"),
            "{problem:?}"
        );
        for text in [
            "<html>",
            r#"{"status":"success"}"#,
            r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#,
            r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"histogram":[1,{}]}]}}"#,
        ] {
            assert!(!parse(text.as_bytes()).unwrap_err().is_explained, "{text}");
        }
    }

    #[test]
    fn a_warning_casts_doubt_and_a_remark_does_not() {
        let warned = |warning: &str| {
            let answer = serde_json::json!({
                "status": "success", "warnings": [warning],
                "data": {"resultType": "vector", "result": [{"metric": {}, "value": [1, "0"]}]},
            });
            parse(answer.to_string().as_bytes())
        };
        let problem = warned("receive store at 10.0.0.7 timed out").unwrap_err();
        assert!(problem.text.contains("timed out"), "{problem:?}");
        warned("PromQL info: metric might not be a counter").unwrap();
    }

    #[test]
    fn what_an_answer_holds_is_not_passed_on() {
        let secret = "a token".repeat(1000);
        for body in [
            serde_json::json!(secret),
            serde_json::json!({"status": "success", "data": {"resultType": secret}}),
        ] {
            let problem = parse(body.to_string().as_bytes()).unwrap_err();
            assert!(!problem.text.contains("token"), "{problem:?}");
        }
    }

    #[tokio::test]
    async fn credentials_are_read_only_from_under_their_folder() {
        let prometheus = |folder: Option<&str>| Prometheus {
            http: reqwest::Client::builder()
                .tls_certs_only([])
                .build()
                .unwrap(),
            credentials: folder.map(PathBuf::from),
        };
        rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        let unmounted = prometheus(None).bearer("thanos").await.unwrap_err();
        assert!(unmounted.contains("not mounted"), "{unmounted}");
        let outside = prometheus(Some("/tmp")).bearer("../etc").await.unwrap_err();
        assert!(outside.contains("no name"), "{outside}");
    }
}
