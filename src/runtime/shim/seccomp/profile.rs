//! Profiles in Docker's JSON, which the OCI specification has too: what a file says becomes rules for
//! this device's architecture. What could not be kept is refused, never left out: only names of calls
//! that this architecture does not have are passed over.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::bpf::{Action, Compare, Condition, Rule, Rules};
use super::{ERRNO, RET_ALLOW, RET_KILL_PROCESS, RET_KILL_THREAD, RET_LOG, RET_TRAP, number};

/// Highest number of an error that a filter may answer.
const ERRNO_MAX: u32 = 4095;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    syscalls: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    #[serde(default)]
    names: Vec<String>,
    name: Option<String>,
    action: String,
    errno_ret: Option<u32>,
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Filter,
    #[serde(default)]
    excludes: Filter,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// When a group holds.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Filter {
    caps: Vec<String>,
    arches: Vec<String>,
    min_kernel: Option<String>,
}

/// What a profile is read for.
pub(super) struct Surroundings<'a> {
    /// Docker's word for the architecture, such as `amd64`.
    pub(super) architecture: &'a str,
    /// What the container keeps, such as `CAP_SYS_ADMIN`.
    pub(super) capabilities: &'a [String],
    /// Major and minor number of the kernel.
    pub(super) kernel: (u32, u32),
}

/// Parses a profile.
pub(super) fn parse(bytes: &[u8], around: &Surroundings<'_>) -> Result<Rules, String> {
    let profile: Profile = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let otherwise = action(&profile.default_action, profile.default_errno_ret)?;
    let mut calls: BTreeMap<u32, Vec<Rule>> = BTreeMap::new();
    for group in &profile.syscalls {
        if !holds(&group.includes, around, true)? || holds(&group.excludes, around, false)? {
            continue;
        }
        let chosen = action(&group.action, group.errno_ret.or(profile.default_errno_ret))?;
        let conditions = group.args.iter().flatten().map(condition).collect::<Result<Vec<_>, _>>()?;
        for name in group.names.iter().chain(&group.name) {
            let Some(number) = number(name) else { continue };
            for conditions in alternatives(&conditions) {
                calls.entry(number).or_default().push(Rule { conditions, action: chosen });
            }
        }
    }
    Ok(Rules { calls, otherwise, newest: u32::MAX, unknown: otherwise })
}

/// Conditions on one argument that are named twice are alternatives, as Docker reads them.
fn alternatives(conditions: &[Condition]) -> Vec<Vec<Condition>> {
    let twice = conditions
        .iter()
        .enumerate()
        .any(|(index, condition)| conditions[index + 1..].iter().any(|other| other.argument == condition.argument));
    if twice { conditions.iter().map(|one| vec![*one]).collect() } else { vec![conditions.to_vec()] }
}

/// Whether what a group asks for is so. All of an include must be; any of an exclude is enough.
fn holds(filter: &Filter, around: &Surroundings<'_>, all: bool) -> Result<bool, String> {
    let mut answers = Vec::new();
    if !filter.arches.is_empty() {
        answers.push(filter.arches.iter().any(|name| name == around.architecture));
    }
    let kept = |name: &String| around.capabilities.contains(name);
    if !filter.caps.is_empty() {
        answers.push(if all { filter.caps.iter().all(kept) } else { filter.caps.iter().any(kept) });
    }
    if let Some(text) = &filter.min_kernel {
        let least = version(text).ok_or_else(|| format!("minKernel is {text:?}, but must be such as \"4.8\""))?;
        answers.push(around.kernel >= least);
    }
    Ok(if all { answers.iter().all(|answer| *answer) } else { answers.iter().any(|answer| *answer) })
}

/// Major and minor number of a kernel's release.
pub(super) fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

fn action(name: &str, errno: Option<u32>) -> Result<Action, String> {
    Ok(match name {
        "SCMP_ACT_ALLOW" => RET_ALLOW,
        "SCMP_ACT_LOG" => RET_LOG,
        "SCMP_ACT_TRAP" => RET_TRAP,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => RET_KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => RET_KILL_PROCESS,
        "SCMP_ACT_ERRNO" => {
            let errno = errno.unwrap_or(1);
            if errno > ERRNO_MAX {
                return Err(format!("errnoRet is {errno}, but at most {ERRNO_MAX} can be answered"));
            }
            ERRNO | errno
        }
        other => return Err(format!("the action {other:?} is not supported; nothing here would answer it")),
    })
}

fn condition(argument: &Argument) -> Result<Condition, String> {
    if argument.index > 5 {
        return Err(format!("an argument has the index {}, but a call has 0 to 5", argument.index));
    }
    let (value, two) = (argument.value, argument.value_two);
    let compare = match argument.op.as_str() {
        "SCMP_CMP_EQ" => Compare::Equal(value),
        "SCMP_CMP_NE" => Compare::NotEqual(value),
        "SCMP_CMP_LT" => Compare::Less(value),
        "SCMP_CMP_LE" => Compare::LessOrEqual(value),
        "SCMP_CMP_GT" => Compare::Greater(value),
        "SCMP_CMP_GE" => Compare::GreaterOrEqual(value),
        "SCMP_CMP_MASKED_EQ" => Compare::Masked { mask: value, value: two },
        other => return Err(format!("the comparison {other:?} is not known")),
    };
    Ok(Condition { argument: argument.index, compare, wide: true })
}
