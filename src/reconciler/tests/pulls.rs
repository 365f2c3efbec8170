use std::time::Duration;

use serde_json::json;

use super::*;

fn with_policy(policy: &str, state: ImageState) -> Bench {
    let mut bench =
        Bench::with(&json!({"spec": {"containers": [{"name": "web", "image": "web:1", "imagePullPolicy": policy}]}}));
    if !matches!(state, ImageState::Ready { .. }) {
        bench.target.images.insert("web:1".into(), state);
    }
    bench
}

fn ready() -> ImageState {
    ImageState::Ready { config: ImageConfig::default(), id: String::new() }
}

fn start() -> ContainerRef {
    let pod = PodRef { namespace: "default".into(), name: "web-1".into(), uid: "u1".into() };
    ContainerRef { pod, container: "web".into(), attempt: 0 }
}

fn failed(attempts: u32, unreachable: bool) -> PullState {
    PullState::Failed(PullFailure { message: "404".into(), unreachable, attempts, at: NOW, jitter: 0 })
}

fn waiting(bench: &mut Bench) -> (String, String) {
    let waiting = bench.web().state.unwrap().waiting.unwrap();
    (waiting.reason.unwrap(), waiting.message.unwrap_or_default())
}

#[test]
fn each_policy_asks_the_registry_when_it_says() {
    let pull = ["event Pulling", "pull web:1 for u1-web-0", "report web-1 at 7"];
    assert_eq!(with_policy("IfNotPresent", ready()).words(), ["start u1-web-0"]);
    assert_eq!(with_policy("IfNotPresent", ImageState::Absent).words(), pull);
    assert_eq!(with_policy("Always", ready()).words(), pull);
    assert_eq!(with_policy("Always", ImageState::Absent).words(), pull);
    assert_eq!(with_policy("Never", ready()).words(), ["start u1-web-0"]);
    let mut never = with_policy("Never", ImageState::Absent);
    assert_eq!(never.words(), ["report web-1 at 7", "event Failed"]);
    let (reason, message) = waiting(&mut never);
    assert_eq!(reason, "ErrImageNeverPull");
    assert!(message.contains("web:1") && message.contains("kith image load"), "{message}");
    // What is damaged here may be whole there.
    assert_eq!(with_policy("IfNotPresent", ImageState::Failed("damaged".into())).words(), pull);
    assert_eq!(waiting(&mut with_policy("Never", ImageState::Failed("damaged".into()))).0, "ImageUnusable");
}

#[test]
fn a_pull_is_waited_for_and_then_started_from() {
    for (policy, state) in [("Always", ready()), ("IfNotPresent", ImageState::Absent)] {
        let mut bench = with_policy(policy, state);
        bench.target.pulls.insert(start(), PullState::Pulling);
        assert_eq!(bench.words(), ["report web-1 at 7"]);
        bench.target.pulls.insert(start(), PullState::Done);
        bench.target.images.insert("web:1".into(), ready());
        bench.target.images.insert("web:1".into(), Bench::with(&json!({})).target.images["web:1"].clone());
        assert_eq!(bench.words(), ["start u1-web-0"], "{policy}");
    }
    // Another attempt asks anew.
    let mut bench = with_policy("Always", ready());
    bench.target.pulls.insert(start(), PullState::Done);
    bench.exited(0, exit(1, 0, 1));
    bench.now = NOW.plus(Duration::from_secs(1));
    assert_eq!(bench.words()[..2], ["event Pulling", "pull web:1 for u1-web-1"]);
}

#[test]
fn a_pull_that_failed_waits_longer_each_time_and_says_so_once() {
    let mut bench = with_policy("IfNotPresent", ImageState::Absent);
    bench.target.pulls.insert(start(), failed(1, false));
    assert_eq!(waiting(&mut bench), ("ErrImagePull".into(), "404".into()));
    assert_eq!(bench.words(), ["report web-1 at 7", "event BackOff"]);
    let backed_off = ("ImagePullBackOff".into(), "Back-off pulling image \"web:1\": 404".into());
    assert_eq!(waiting(&mut bench), backed_off);
    assert_eq!(bench.words(), Vec::<String>::new());
    assert_eq!(bench.decide().wake_at, Some(NOW.plus(Duration::from_secs(10))));
    bench.now = NOW.plus(Duration::from_secs(10));
    assert_eq!(bench.words(), ["event Pulling", "pull web:1 for u1-web-0"]);
    // While it is tried again, and when that fails the same way, there is nothing new to tell.
    bench.target.pulls.insert(start(), PullState::Pulling);
    assert_eq!(bench.words(), Vec::<String>::new());
    bench.target.pulls.insert(start(), failed(2, false));
    assert_eq!(bench.words(), Vec::<String>::new());
    // Whoever brings the image by hand ends the wait.
    let good = Bench::with(&json!({})).target.images["web:1"].clone();
    bench.target.images.insert("web:1".into(), good);
    assert_eq!(bench.words(), ["start u1-web-0"]);
}

#[test]
fn always_makes_do_with_what_is_here_only_when_nobody_answers() {
    let mut bench = with_policy("Always", ready());
    bench.target.pulls.insert(start(), failed(1, true));
    assert_eq!(bench.words(), ["start u1-web-0"]);
    bench.target.pulls.insert(start(), failed(1, false));
    assert_eq!(waiting(&mut bench).0, "ErrImagePull");
    bench.target.pulls.insert(start(), failed(1, true));
    bench.target.images.insert("web:1".into(), ImageState::Absent);
    assert_eq!(waiting(&mut bench).0, "ImagePullBackOff");
}

#[test]
fn what_is_no_name_is_never_asked_for() {
    let mut bench = with_policy("Always", ImageState::Invalid("\"Web\" is not an image name".into()));
    assert_eq!(bench.words(), ["report web-1 at 7", "event Failed"]);
    assert_eq!(waiting(&mut bench), ("InvalidImageName".into(), "\"Web\" is not an image name".into()));
}
