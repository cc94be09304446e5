//! What is sent, and what a right answer is.

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::load::Load;

/// Images that the digits models never saw, and what they show.
const HELD_OUT: &str = include_str!("../../../examples/digits/heldout.json");

/// Requests to choose from. Never empty.
#[derive(Debug)]
pub(crate) struct Samples(Vec<Sample>);

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// The body.
    pub(crate) body: Bytes,
    /// What the answer must be; none: only the status counts.
    pub(crate) label: Option<i64>,
}

#[derive(Deserialize)]
struct HeldOut {
    images: Vec<Vec<f32>>,
    labels: Vec<i64>,
}

impl Samples {
    /// What the command line asks for.
    pub(crate) async fn read(args: &Load) -> anyhow::Result<Self> {
        if let Some(body) = &args.body {
            return Self::body(body.clone().into());
        }
        if let Some(path) = &args.body_file {
            let body = tokio::fs::read(path).await;
            return Self::body(
                body.with_context(|| format!("cannot read {}", path.display()))?
                    .into(),
            );
        }
        match args.samples.as_deref() {
            None => Self::images(HELD_OUT),
            Some(url) if url.starts_with("http://") => {
                let answer = reqwest::get(url)
                    .await
                    .and_then(reqwest::Response::error_for_status);
                let answer = answer.with_context(|| format!("cannot fetch {url}"))?;
                Self::images(
                    &answer
                        .text()
                        .await
                        .with_context(|| format!("cannot fetch {url}"))?,
                )
            }
            Some(path) => {
                let text = tokio::fs::read_to_string(path).await;
                Self::images(&text.with_context(|| format!("cannot read {path}"))?)
            }
        }
    }

    fn body(body: Bytes) -> anyhow::Result<Self> {
        serde_json::from_slice::<Value>(&body).context("the body to send is not JSON")?;
        Ok(Self(vec![Sample { body, label: None }]))
    }

    fn images(text: &str) -> anyhow::Result<Self> {
        let held_out: HeldOut = serde_json::from_str(text)
            .context("held-out images must be {\"images\": [[number, …], …], \"labels\": […]}")?;
        ensure!(
            held_out.images.len() == held_out.labels.len(),
            "{} images have {} labels",
            held_out.images.len(),
            held_out.labels.len()
        );
        if held_out.images.is_empty() {
            bail!("there are no held-out images");
        }
        let sample = |(image, label): (Vec<f32>, i64)| {
            let body = json!({"inputs": [{
                "name": "image", "datatype": "FP32", "shape": [1, image.len()], "data": image,
            }]});
            Sample {
                body: body.to_string().into(),
                label: Some(label),
            }
        };
        Ok(Self(
            held_out
                .images
                .into_iter()
                .zip(held_out.labels)
                .map(sample)
                .collect(),
        ))
    }

    /// One of them.
    pub(crate) fn pick(&self) -> Sample {
        let index = rand::random_range(0..self.0.len());
        self.0.get(index).cloned().unwrap_or_else(|| Sample {
            body: Bytes::new(),
            label: None,
        })
    }
}

/// The label in an answer of the Open Inference Protocol.
pub(crate) fn label(answer: &[u8]) -> Option<i64> {
    let answer: Value = serde_json::from_slice(answer).ok()?;
    let outputs = answer.get("outputs")?.as_array()?;
    let label = outputs
        .iter()
        .find(|output| output.get("name").is_some_and(|name| name == "label"))?;
    label.get("data")?.get(0)?.as_i64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_held_out_images_are_requests_with_labels() {
        let samples = Samples::images(HELD_OUT).unwrap();
        assert!(samples.0.len() > 100);
        let sample = samples.pick();
        assert!((0..10).contains(&sample.label.unwrap()));
        let body: Value = serde_json::from_slice(&sample.body).unwrap();
        assert_eq!(body["inputs"][0]["shape"], json!([1, 64]));
        assert_eq!(body["inputs"][0]["data"].as_array().unwrap().len(), 64);
    }

    #[test]
    fn images_without_labels_are_refused() {
        Samples::images(r#"{"images": [[1]], "labels": []}"#).unwrap_err();
        Samples::images(r#"{"images": [], "labels": []}"#).unwrap_err();
        Samples::body("no json".into()).unwrap_err();
    }

    #[test]
    fn the_label_is_read_by_its_name() {
        let answer = br#"{"outputs": [{"name": "probabilities", "data": [0.1]}, {"name": "label", "data": [7]}]}"#;
        assert_eq!(label(answer), Some(7));
        assert_eq!(
            label(br#"{"outputs": [{"name": "probabilities", "data": [1]}]}"#),
            None
        );
        assert_eq!(label(b"<html>"), None);
    }
}
