//! Whether a history of one key could have come from one copy of it: there must be an order of all
//! calls, each somewhere between its begin and its end, in which every answer is right. The search
//! is Wing and Gong's, with Lowe's memory of what was tried.

use std::collections::HashSet;

/// A value that was written; every write of a run has its own.
pub type Value = u32;

/// What a write requires of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    Anything,
    Absent,
    Is(Value),
}

/// What was asked and answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Read(Option<Value>),
    /// `None` deletes.
    Written(Option<Value>, Expect),
    /// The requirement did not hold.
    Refused(Expect),
    /// Nobody knows whether it was written.
    Unknown(Option<Value>, Expect),
}

/// One call of one client.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    #[expect(dead_code, reason = "printed with a history that is wrong")]
    pub client: u64,
    /// When it began and ended; `u64::MAX` for one that never ended.
    pub begin: u64,
    pub end: u64,
    pub op: Op,
}

/// The most calls that one history may have.
pub const MAX_CALLS: usize = 128;

fn holds(expect: Expect, state: Option<Value>) -> bool {
    match expect {
        Expect::Anything => true,
        Expect::Absent => state.is_none(),
        Expect::Is(value) => state == Some(value),
    }
}

/// The state after a call, if its answer is right in this state.
fn step(op: Op, state: Option<Value>) -> Option<Option<Value>> {
    match op {
        Op::Read(found) => (found == state).then_some(state),
        Op::Written(value, expect) => holds(expect, state).then_some(value),
        Op::Refused(expect) => (!holds(expect, state)).then_some(state),
        Op::Unknown(value, expect) => Some(if holds(expect, state) { value } else { state }),
    }
}

/// Whether there is such an order.
pub fn check(calls: &[Call]) -> bool {
    assert!(calls.len() <= MAX_CALLS, "a history of {} calls is too long to check", calls.len());
    let must: u128 = mask(calls, |call| call.end != u64::MAX);
    let mut tried: HashSet<(u128, Option<Value>)> = HashSet::new();
    let mut open: Vec<(u128, Option<Value>)> = vec![(0, None)];
    while let Some((done, state)) = open.pop() {
        if done & must == must {
            return true;
        }
        if !tried.insert((done, state)) {
            continue;
        }
        // Whatever begins after another call has ended can not come before it.
        let waiting = || calls.iter().enumerate().filter(move |(at, _)| done & (1 << at) == 0);
        let first_end = waiting().map(|(_, call)| call.end).min().unwrap_or(u64::MAX);
        for (at, call) in waiting().filter(|(_, call)| call.begin < first_end) {
            if let Some(next) = step(call.op, state) {
                open.push((done | (1 << at), next));
            }
        }
    }
    false
}

fn mask(calls: &[Call], of: impl Fn(&Call) -> bool) -> u128 {
    calls.iter().enumerate().filter(|(_, call)| of(call)).fold(0, |mask, (at, _)| mask | (1 << at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(calls: &[(u64, u64, Op)]) -> bool {
        let call =
            |(client, &(begin, end, op)): (usize, &(u64, u64, Op))| Call { client: client as u64, begin, end, op };
        check(&calls.iter().enumerate().map(call).collect::<Vec<_>>())
    }

    const PUT: fn(Value) -> Op = |value| Op::Written(Some(value), Expect::Anything);

    #[test]
    fn reads_see_the_latest_write_that_ended() {
        assert!(history(&[(0, 1, PUT(1)), (2, 3, Op::Read(Some(1)))]));
        assert!(!history(&[(0, 1, PUT(1)), (2, 3, Op::Read(None))]));
        assert!(history(&[(0, 4, PUT(1)), (2, 3, Op::Read(None))]));
        assert!(!history(&[(0, 9, PUT(1)), (2, 3, Op::Read(Some(1))), (4, 5, Op::Read(None))]));
    }

    #[test]
    fn an_unknown_write_may_come_late_or_never_but_only_once() {
        let lost = (0, u64::MAX, Op::Unknown(Some(1), Expect::Absent));
        assert!(history(&[lost, (2, 3, Op::Read(None)), (4, 5, Op::Read(Some(1)))]));
        assert!(history(&[lost, (2, 3, Op::Read(None))]));
        assert!(!history(&[lost, (2, 3, Op::Read(Some(1))), (4, 5, PUT(2)), (6, 7, Op::Read(Some(1)))]));
    }

    #[test]
    fn one_of_two_that_expect_the_same_is_refused() {
        let create = |value| Op::Written(Some(value), Expect::Absent);
        assert!(!history(&[(0, 5, create(1)), (1, 6, create(2))]));
        assert!(history(&[(0, 5, create(1)), (1, 6, Op::Refused(Expect::Absent))]));
        assert!(!history(&[(0, 1, Op::Refused(Expect::Absent)), (2, 3, create(2))]));
    }
}
