//! A small assembler for filters of system calls: rules in, a program for the kernel's classic BPF
//! machine out. It knows numbers only; which call is allowed is decided elsewhere. The same code for
//! every architecture: they differ in their word for themselves and in their numbers.

use std::collections::BTreeMap;

use nix::libc::sock_filter;

/// Longest program that the kernel takes.
pub(super) const PROGRAM_MAX: usize = 4096;

/// Where the kernel puts what a program looks at (`struct seccomp_data`), on little-endian machines.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Ends the whole process: an architecture that the rules do not speak of.
const KILL_PROCESS: u32 = 0x8000_0000;

/// What the kernel is to do: `SECCOMP_RET_*` with its data.
pub(super) type Action = u32;

/// How an argument is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compare {
    Equal(u64),
    NotEqual(u64),
    Less(u64),
    LessOrEqual(u64),
    Greater(u64),
    GreaterOrEqual(u64),
    /// The bits under the mask are these.
    Masked {
        mask: u64,
        value: u64,
    },
}

/// A condition on one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    /// 0 to 5.
    pub(super) argument: u8,
    pub(super) compare: Compare,
    /// Whether all 64 bits count; else the lower 32, which is all that the kernel looks at in an `int`.
    pub(super) wide: bool,
}

/// What happens to a call when all conditions hold; none always hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) conditions: Vec<Condition>,
    pub(super) action: Action,
}

/// Rules for all calls.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// By number of the call; the first rule that holds decides.
    pub(super) calls: BTreeMap<u32, Vec<Rule>>,
    /// When no rule holds, for numbers up to `newest`.
    pub(super) otherwise: Action,
    /// Highest number that the rules have an opinion on.
    pub(super) newest: u32,
    /// For numbers above.
    pub(super) unknown: Action,
}

/// A run of call numbers that are treated the same way.
struct Span<'a> {
    first: u32,
    rules: &'a [Rule],
    otherwise: Action,
}

/// Compiles rules for an architecture, named by the kernel's `AUDIT_ARCH_*`.
pub(super) fn compile(rules: &Rules, architecture: u32) -> Result<Vec<sock_filter>, String> {
    let mut program = vec![
        statement(LOAD, ARCHITECTURE),
        branch(IF_EQUAL, architecture, 1, 0),
        statement(RETURN, KILL_PROCESS),
        statement(LOAD, NUMBER),
    ];
    program.extend(search(&spans(rules))?);
    if program.len() > PROGRAM_MAX {
        return Err(format!("the filter has {} steps, and the kernel takes {PROGRAM_MAX}", program.len()));
    }
    Ok(program)
}

fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

fn branch(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// All numbers from 0 on, as few runs as there can be.
fn spans(rules: &Rules) -> Vec<Span<'_>> {
    let mut spans = Vec::new();
    let mut next = Some(0);
    for (number, own) in &rules.calls {
        gap(rules, &mut spans, next, *number);
        add(rules, &mut spans, *number, own);
        next = number.checked_add(1);
    }
    gap(rules, &mut spans, next, u32::MAX);
    spans
}

/// Adds a span, or lets the one before go on.
fn add<'a>(rules: &Rules, spans: &mut Vec<Span<'a>>, first: u32, own: &'a [Rule]) {
    let fallback = if first <= rules.newest { rules.otherwise } else { rules.unknown };
    // A first rule without conditions leaves nothing to the others.
    let (own, otherwise) = match own.first() {
        Some(rule) if rule.conditions.is_empty() => (&own[..0], rule.action),
        _ => (own, fallback),
    };
    let goes_on = |last: &Span<'_>| last.rules.is_empty() && own.is_empty() && last.otherwise == otherwise;
    if !spans.last().is_some_and(goes_on) {
        spans.push(Span { first, rules: own, otherwise });
    }
}

/// Adds the numbers without rules from `next` up to `end`, cut where the newest known one is.
fn gap(rules: &Rules, spans: &mut Vec<Span<'_>>, next: Option<u32>, end: u32) {
    let Some(next) = next.filter(|next| *next < end) else { return };
    add(rules, spans, next, &[]);
    if next <= rules.newest && rules.newest < end - 1 {
        add(rules, spans, rules.newest + 1, &[]);
    }
}

/// Finds a number's span by halves.
fn search(spans: &[Span<'_>]) -> Result<Vec<sock_filter>, String> {
    if let [span] = spans {
        return leaf(span);
    }
    let (low, high) = spans.split_at(spans.len() / 2);
    let (left, right) = (search(low)?, search(high)?);
    let skip = u32::try_from(left.len()).map_err(|error| error.to_string())?;
    let mut program = vec![branch(IF_AT_LEAST, high[0].first, 0, 1), statement(JUMP, skip)];
    program.extend(left);
    program.extend(right);
    Ok(program)
}

fn leaf(span: &Span<'_>) -> Result<Vec<sock_filter>, String> {
    let mut program = Vec::new();
    for rule in span.rules {
        program.extend(guarded(rule)?);
        if rule.conditions.is_empty() {
            return Ok(program);
        }
    }
    program.push(statement(RETURN, span.otherwise));
    Ok(program)
}

/// Where a branch inside of a rule leads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    /// To the next step.
    Next,
    /// Past this condition: it holds.
    Holds,
    /// Past this rule: it does not hold.
    Fails,
}

enum Step {
    Plain(sock_filter),
    If { code: u16, k: u32, yes: To, no: To },
}

fn guarded(rule: &Rule) -> Result<Vec<sock_filter>, String> {
    let conditions: Vec<Vec<Step>> = rule.conditions.iter().map(steps).collect();
    let length: usize = conditions.iter().map(Vec::len).sum();
    let mut program = Vec::with_capacity(length + 1);
    for condition in conditions {
        let holds = program.len() + condition.len();
        for step in condition {
            let here = program.len() + 1;
            let offset = |to: To| {
                let target = match to {
                    To::Next => here,
                    To::Holds => holds,
                    To::Fails => length + 1,
                };
                u8::try_from(target - here).map_err(|_| "a rule has too many conditions".to_owned())
            };
            program.push(match step {
                Step::Plain(plain) => plain,
                Step::If { code, k, yes, no } => branch(code, k, offset(yes)?, offset(no)?),
            });
        }
    }
    program.push(statement(RETURN, rule.action));
    Ok(program)
}

/// The upper and the lower 32 bits.
fn halves(value: u64) -> (u32, u32) {
    let part = |bits: u64| u32::try_from(bits & 0xffff_ffff).unwrap_or(0);
    (part(value >> 32), part(value))
}

/// One condition. The upper half of an argument is looked at first.
fn steps(condition: &Condition) -> Vec<Step> {
    let low = ARGUMENTS + 8 * u32::from(condition.argument);
    let load = |at: u32| Step::Plain(statement(LOAD, at));
    let when = |code, k, yes, no| Step::If { code, k, yes, no };
    let mut steps = Vec::new();
    let mut ordered = |value: u64, code: u16, above: To, below: To| {
        let (high_k, low_k) = halves(value);
        if condition.wide {
            steps.push(load(low + 4));
            steps.push(when(IF_GREATER, high_k, above, To::Next));
            steps.push(when(IF_EQUAL, high_k, To::Next, below));
        }
        steps.push(load(low));
        steps.push(when(code, low_k, above, below));
    };
    match condition.compare {
        Compare::Greater(value) => ordered(value, IF_GREATER, To::Holds, To::Fails),
        Compare::GreaterOrEqual(value) => ordered(value, IF_AT_LEAST, To::Holds, To::Fails),
        Compare::LessOrEqual(value) => ordered(value, IF_GREATER, To::Fails, To::Holds),
        Compare::Less(value) => ordered(value, IF_AT_LEAST, To::Fails, To::Holds),
        Compare::NotEqual(value) => {
            let (high_k, low_k) = halves(value);
            if condition.wide {
                steps.push(load(low + 4));
                steps.push(when(IF_EQUAL, high_k, To::Next, To::Holds));
            }
            steps.push(load(low));
            steps.push(when(IF_EQUAL, low_k, To::Fails, To::Holds));
        }
        Compare::Equal(value) => steps.extend(masked(low, u64::MAX, value, condition.wide)),
        Compare::Masked { mask, value } => steps.extend(masked(low, mask, value, condition.wide)),
    }
    steps
}

fn masked(low: u32, mask: u64, value: u64, wide: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut half = |at: u32, mask: u32, value: u32| {
        steps.push(Step::Plain(statement(LOAD, at)));
        if mask != u32::MAX {
            steps.push(Step::Plain(statement(AND, mask)));
        }
        steps.push(Step::If { code: IF_EQUAL, k: value, yes: To::Next, no: To::Fails });
    };
    if wide {
        half(low + 4, halves(mask).0, halves(value).0);
    }
    half(low, halves(mask).1, halves(value).1);
    steps
}
