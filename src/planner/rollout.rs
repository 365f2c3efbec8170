//! How many pods of each ReplicaSet of a Deployment there should be next: the arithmetic of
//! RollingUpdate and Recreate. Numbers in, numbers out.

use k8s_openapi::api::apps::v1::DeploymentSpec;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// How pods of an old template are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strategy {
    /// All old pods end before the first new one is made.
    Recreate,
    /// A few at a time.
    Rolling {
        /// Pods above the wanted number.
        surge: usize,
        /// Pods that may be missing from the wanted number.
        unavailable: usize,
    },
}

/// One ReplicaSet in the arithmetic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    /// `spec.replicas`.
    pub(super) wanted: usize,
    /// Pods that are available.
    pub(super) available: usize,
}

impl Strategy {
    /// The strategy of a Deployment that wants so many pods.
    pub(super) fn of(spec: &DeploymentSpec, wanted: usize) -> Self {
        let strategy = spec.strategy.as_ref();
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate") {
            return Self::Recreate;
        }
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let surge = amount(rolling.and_then(|rolling| rolling.max_surge.as_ref()), wanted, true);
        let unavailable = amount(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), wanted, false);
        // Neither above nor below would be a standstill.
        let unavailable = if surge == 0 { unavailable.max(1) } else { unavailable };
        Self::Rolling { surge, unavailable: unavailable.min(wanted) }
    }

    /// Pods that must be available for the Deployment to count as available.
    pub(super) fn floor(self, wanted: usize) -> usize {
        match self {
            Self::Recreate => wanted,
            Self::Rolling { unavailable, .. } => wanted.saturating_sub(unavailable),
        }
    }
}

/// A number or a percentage of `wanted`; a quarter when it is not given or not readable.
fn amount(given: Option<&IntOrString>, wanted: usize, up: bool) -> usize {
    let percent = |percent: usize| {
        let scaled = wanted.saturating_mul(percent);
        if up { scaled.div_ceil(100) } else { scaled / 100 }
    };
    match given {
        Some(IntOrString::Int(number)) => usize::try_from(*number).unwrap_or(0),
        Some(IntOrString::String(text)) => {
            let number = text.strip_suffix('%').unwrap_or(text).parse::<usize>();
            match (number, text.ends_with('%')) {
                (Ok(number), true) => percent(number),
                (Ok(number), false) => number,
                (Err(_), _) => percent(25),
            }
        }
        None => percent(25),
    }
}

/// What the new ReplicaSet and the old ones (oldest first) should want next. `old_pods` is how many
/// pods of old templates still run, those that are ending included.
pub(super) fn next(
    strategy: Strategy,
    wanted: usize,
    new: Share,
    old: &[Share],
    old_pods: usize,
) -> (usize, Vec<usize>) {
    match strategy {
        Strategy::Recreate => {
            let scaled_down = old.iter().all(|share| share.wanted == 0) && old_pods == 0;
            (if scaled_down { wanted } else { new.wanted.min(wanted) }, vec![0; old.len()])
        }
        Strategy::Rolling { surge, .. } => {
            let total = new.wanted + old.iter().map(|share| share.wanted).sum::<usize>();
            let room = (wanted + surge).saturating_sub(total);
            let grown = if new.wanted > wanted { wanted } else { new.wanted + room.min(wanted - new.wanted) };
            if grown != new.wanted {
                // One step at a time: the old ones follow when this is seen to be done.
                return (grown, old.iter().map(|share| share.wanted).collect());
            }
            (grown, shrink(strategy.floor(wanted), new, old))
        }
    }
}

/// Takes pods from old ReplicaSets without going below `floor` available ones: first those that are
/// not available anyway, then, oldest ReplicaSet first, available ones.
fn shrink(floor: usize, new: Share, old: &[Share]) -> Vec<usize> {
    let total = new.wanted + old.iter().map(|share| share.wanted).sum::<usize>();
    let new_unavailable = new.wanted.saturating_sub(new.available);
    let mut budget = total.saturating_sub(floor + new_unavailable);
    let mut left: Vec<usize> = old.iter().map(|share| share.wanted).collect();
    for (wants, share) in left.iter_mut().zip(old) {
        let idle = wants.saturating_sub(share.available).min(budget);
        *wants -= idle;
        budget -= idle;
    }
    let available = new.available + old.iter().map(|share| share.available).sum::<usize>();
    let mut spare = available.saturating_sub(floor);
    for wants in &mut left {
        let taken = (*wants).min(spare).min(budget);
        *wants -= taken;
        spare -= taken;
        budget -= taken;
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(wanted: usize, available: usize) -> Share {
        Share { wanted, available }
    }

    #[test]
    fn a_rolling_update_never_goes_below_its_floor() {
        for wanted in 1..8 {
            for (surge, unavailable) in [(1, 0), (0, 1), (1, 1), (3, 2)] {
                let strategy = Strategy::Rolling { surge, unavailable };
                let (mut new, mut old) = (share(0, 0), share(wanted, wanted));
                for round in 0.. {
                    assert!(round < 100, "stuck at {new:?} {old:?}");
                    let (next_new, next_old) = next(strategy, wanted, new, &[old], old.wanted);
                    assert!(next_new + next_old[0] <= wanted + surge);
                    let available = new.available.min(next_new) + old.available.min(next_old[0]);
                    assert!(available + unavailable >= wanted, "{wanted} {strategy:?}: {new:?} {old:?}");
                    new = share(next_new, next_new);
                    old = share(next_old[0], next_old[0]);
                    if new.wanted == wanted && old.wanted == 0 {
                        break;
                    }
                }
            }
        }
    }

    #[test]
    fn broken_old_pods_make_room_for_a_repair() {
        let strategy = Strategy::Rolling { surge: 1, unavailable: 0 };
        let (new, old) = next(strategy, 3, share(1, 0), &[share(3, 0)], 3);
        assert_eq!((new, old), (1, vec![3]), "nothing is available and nothing may be missing");
        let strategy = Strategy::Rolling { surge: 1, unavailable: 1 };
        assert_eq!(next(strategy, 3, share(1, 0), &[share(3, 0)], 3), (1, vec![2]));
    }

    #[test]
    fn recreate_waits_for_the_last_old_pod() {
        assert_eq!(next(Strategy::Recreate, 3, share(0, 0), &[share(3, 3)], 3), (0, vec![0]));
        assert_eq!(next(Strategy::Recreate, 3, share(0, 0), &[share(0, 0)], 1), (0, vec![0]));
        assert_eq!(next(Strategy::Recreate, 3, share(0, 0), &[share(0, 0)], 0), (3, vec![0]));
    }

    #[test]
    fn percentages_round_up_for_surge_and_down_for_unavailable() {
        let spec = |text: &str| serde_json::from_str::<DeploymentSpec>(text).unwrap();
        let plain = spec(r#"{"selector":{},"template":{}}"#);
        assert_eq!(Strategy::of(&plain, 3), Strategy::Rolling { surge: 1, unavailable: 0 });
        assert_eq!(Strategy::of(&plain, 10), Strategy::Rolling { surge: 3, unavailable: 2 });
        let none =
            spec(r#"{"selector":{},"template":{},"strategy":{"rollingUpdate":{"maxSurge":0,"maxUnavailable":0}}}"#);
        assert_eq!(Strategy::of(&none, 3), Strategy::Rolling { surge: 0, unavailable: 1 });
    }
}
