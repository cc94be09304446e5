//! Several routers with one key.

use std::collections::BTreeSet;

use http::{HeaderMap, HeaderName};
use serde_json::Value;
use sluice_router::pick::SplitKey;
use sluice_router::table::{self, LastGood, Table};

use crate::backend::named;
use crate::objects::{HOST, objects, split_route};
use crate::world::{World, settings};

const KEYS: u32 = 100_000;

/// A replica as it stands after a start: its own copy of the key, its own table.
struct Replica {
    key: SplitKey,
    table: Table,
}

impl Replica {
    fn start(file: &std::path::Path, route: Value) -> Self {
        let secret = std::fs::read(file).unwrap();
        let endpoint = ["127.0.0.1:9".parse().unwrap()];
        let objects = objects(&endpoint, &endpoint, route);
        Self {
            key: SplitKey::new(secret.trim_ascii()).unwrap(),
            table: table::build(&objects, &settings(), &LastGood::new()).table,
        }
    }

    /// The users whom the canary gets.
    fn canary_users(&self) -> BTreeSet<u32> {
        let rule = self.table.find(80, HOST, "/v2/x").unwrap();
        let sticky = rule.sticky.as_ref().unwrap();
        let nobody = || unreachable!("users are told apart by a header");
        let mut users = BTreeSet::new();
        for user in 0..KEYS {
            let name = format!("user-{user}").parse().unwrap();
            let headers = HeaderMap::from_iter([(HeaderName::from_static("x-user-id"), name)]);
            let key = sticky.key.read(&headers, nobody).unwrap();
            let draw = self.key.draw(&sticky.run, &key);
            if rule.arm(&headers, draw).unwrap().0 == 0 {
                users.insert(user);
            }
        }
        users
    }
}

#[test]
fn three_replicas_agree_on_every_user_at_each_step_and_after_a_restart() {
    let folder = tempfile();
    let start = |stable, canary| Replica::start(&folder, split_route(stable, canary));
    let agreed = |stable, canary| {
        let users = start(stable, canary).canary_users();
        for _ in 0..2 {
            assert_eq!(start(stable, canary).canary_users(), users);
        }
        users
    };
    let before = agreed(19, 1);
    // Each starts anew with the next step, as one that was killed does.
    let after = agreed(3, 1);
    assert!(after.is_superset(&before), "nobody moves back to stable");
    let share = |users: &BTreeSet<u32>| users.len() * 10_000 / 100_000;
    assert!((480..520).contains(&share(&before)), "{}", before.len());
    assert!((2450..2550).contains(&share(&after)), "{}", after.len());
    std::fs::remove_file(&folder).unwrap();
}

/// A key file of this test alone.
fn tempfile() -> std::path::PathBuf {
    let name = format!("sluice-split-key-{}", std::process::id());
    let file = std::env::temp_dir().join(name);
    std::fs::write(&file, "a key of thirty-two bytes or so\n").unwrap();
    file
}

#[tokio::test]
async fn replicas_that_serve_agree_while_one_is_killed_and_comes_back_at_the_next_step() {
    let (stable, canary) = (named("stable").await, named("canary").await);
    let at = |canary_weight| {
        let route = split_route(100 - canary_weight, canary_weight);
        objects(&[stable], &[canary], route)
    };
    let mut worlds = Vec::new();
    for _ in 0..3 {
        worlds.push(World::start(&at(5)).await);
    }
    let before = canary_users(&worlds).await;
    // Killed: its clients and its memory are gone.
    drop(worlds.pop());
    worlds.push(World::start(&at(25)).await);
    for world in &worlds {
        world.publish(&at(25));
    }
    let after = canary_users(&worlds).await;
    assert!(after.is_superset(&before));
    assert!(before.len() < after.len());
}

/// The users whom the canary answers, on whom all replicas must agree.
async fn canary_users(worlds: &[World]) -> BTreeSet<u32> {
    let mut agreed: Option<BTreeSet<u32>> = None;
    for world in worlds {
        let mut client = world.client().await;
        let mut users = BTreeSet::new();
        for user in 0..500_u32 {
            let answered = client.get(Some(&format!("user-{user}"))).await;
            if answered.revision() == "canary" {
                users.insert(user);
            }
        }
        assert_eq!(agreed.get_or_insert_with(|| users.clone()), &users);
    }
    agreed.unwrap()
}
