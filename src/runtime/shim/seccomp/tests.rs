use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Op, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::*;

/// Runs a program as the kernel would.
fn run(program: &[(u16, u8, u8, u32)], architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let mut bytes = [0_u8; 64];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes[4..8].copy_from_slice(&architecture.to_le_bytes());
    for (slot, argument) in bytes[16..].chunks_exact_mut(8).zip(arguments) {
        slot.copy_from_slice(&argument.to_le_bytes());
    }
    let (mut accumulator, mut at) = (0_u32, 0);
    for _ in 0..program.len() {
        let (code, jt, jf, k) = program[at];
        at += 1;
        let mut jump = |holds: bool| at += usize::from(if holds { jt } else { jf });
        match code {
            0x20 => accumulator = u32::from_le_bytes(bytes[k as usize..k as usize + 4].try_into().unwrap()),
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => jump(accumulator == k),
            0x25 => jump(accumulator > k),
            0x35 => jump(accumulator >= k),
            0x06 => return k,
            other => panic!("{other:#x}"),
        }
    }
    panic!("it does not end");
}

fn plain(program: &[sock_filter]) -> Vec<(u16, u8, u8, u32)> {
    program.iter().map(|step| (step.code, step.jt, step.jf, step.k)).collect()
}

fn compiled(rules: &Rules, architecture: Architecture) -> Vec<(u16, u8, u8, u32)> {
    plain(&bpf::compile(rules, architecture.audit).unwrap())
}

const ALL_CAPABILITIES: [&str; 3] = ["CAP_SYS_ADMIN", "CAP_SYS_TIME", "CAP_PERFMON"];

/// The same rules by the library that was used before.
fn by_seccompiler(capabilities: &[String]) -> Vec<(u16, u8, u8, u32)> {
    let is = |op, value| SeccompCondition::new(0, Width::Dword, op, value).unwrap();
    let rule = |conditions| SeccompRule::new(conditions).unwrap();
    let of = |name: &str| i64::from(number_on(X86_64, name).unwrap());
    let known = calls::ALWAYS.iter().filter_map(|name| number_on(X86_64, name));
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = known.map(|call| (i64::from(call), Vec::new())).collect();
    rules.insert(of("personality"), PERSONALITIES.iter().map(|domain| rule(vec![is(Op::Eq, *domain)])).collect());
    rules.insert(of("clone"), vec![rule(vec![is(Op::MaskedEq(CLONE_NAMESPACES), 0)])]);
    rules.insert(of("socket"), vec![rule(FORBIDDEN_FAMILIES.iter().map(|family| is(Op::Ne, *family)).collect())]);
    for (capability, granted) in calls::BY_CAPABILITY {
        if capabilities.iter().any(|kept| kept == capability) {
            rules.extend(granted.iter().filter_map(|name| Some((i64::from(number_on(X86_64, name)?), Vec::new()))));
        }
    }
    let filter = SeccompFilter::new(rules, SeccompAction::Errno(1), SeccompAction::Allow, TargetArch::x86_64).unwrap();
    let program = BpfProgram::try_from(filter).unwrap();
    program.iter().map(|step| (step.code, step.jt, step.jf, step.k)).collect()
}

#[test]
fn the_own_assembler_agrees_with_seccompiler() {
    for capabilities in [Vec::new(), ALL_CAPABILITIES.map(str::to_owned).to_vec()] {
        let own = compiled(&default_rules(X86_64, &capabilities), X86_64);
        let other = by_seccompiler(&capabilities);
        let firsts = [0, 1, 2, 8, 38, 40, 0x2_0008, 0xffff_ffff, 0x1_0000_0028, 0x1000_0000, 0x7E02_0000, u64::MAX];
        for number in 0..=calls::NEWEST {
            for first in firsts {
                let expected = match number_on(X86_64, "clone3") {
                    Some(clone3) if clone3 == number => ENOSYS,
                    _ => run(&other, X86_64.audit, number, [first, 0, 0, 0, 0, 0]),
                };
                let found = run(&own, X86_64.audit, number, [first, 0, 0, 0, 0, 0]);
                assert_eq!(found, expected, "call {number} with {first:#x}");
            }
        }
    }
}

#[test]
fn every_architecture_gets_its_filter() {
    for architecture in [X86_64, AARCH64, ARM] {
        let program = compiled(&default_rules(architecture, &[]), architecture);
        assert!((100..bpf::PROGRAM_MAX).contains(&program.len()), "{}", program.len());
        let ask = |name: &str, first: u64| {
            run(&program, architecture.audit, number_on(architecture, name).unwrap(), [first, 0, 0, 0, 0, 0])
        };
        for name in ["read", "openat", "execve", "futex", "rt_sigreturn", "exit_group", "getrandom", "statx"] {
            assert_eq!(ask(name, 0), RET_ALLOW, "{name} on {}", architecture.name);
        }
        let refused = [
            "mount",
            "umount2",
            "unshare",
            "setns",
            "bpf",
            "keyctl",
            "add_key",
            "kexec_load",
            "init_module",
            "io_uring_setup",
            "userfaultfd",
            "perf_event_open",
            "reboot",
            "open_by_handle_at",
            "move_mount",
        ];
        for name in refused {
            assert_eq!(ask(name, 0), EPERM, "{name} on {}", architecture.name);
        }
        assert_eq!((ask("clone", 0x11), ask("clone", 0x1000_0011)), (RET_ALLOW, EPERM));
        assert_eq!((ask("socket", 2), ask("socket", 40), ask("socket", 0xff_0000_0028)), (RET_ALLOW, EPERM, EPERM));
        assert_eq!(ask("clone3", 0), ENOSYS);
        assert_eq!(run(&program, architecture.audit, 467, [0; 6]), ENOSYS);
        assert_eq!(run(&program, architecture.audit, u32::MAX, [0; 6]), ENOSYS);
        // Of another architecture, also by the door that x86-64 has for x32.
        assert_eq!(run(&program, 0x4000_0003, 1, [0; 6]), RET_KILL_PROCESS);
        assert_eq!(run(&program, architecture.audit, 0x4000_0000, [0; 6]), ENOSYS);
        let sorted = architecture.calls.windows(2).all(|pair| pair[0].0 < pair[1].0);
        assert!(sorted, "names of {} are in order", architecture.name);
    }
    // What only ARM has, far above all other numbers.
    let program = compiled(&default_rules(ARM, &[]), ARM);
    assert_eq!(run(&program, ARM.audit, 0xf0005, [0; 6]), RET_ALLOW);
    assert_eq!(run(&program, ARM.audit, 0xf0004, [0; 6]), ENOSYS);
}

/// A comparison as one would write it.
type Plain = fn(u64, u64) -> bool;

#[test]
fn arguments_are_compared_in_all_their_bits() {
    let values = [0, 1, 5, 6, 7, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0006, 0x6_0000_0000, u64::MAX];
    let forms: [(Compare, Plain); 6] = [
        (Compare::Equal(0), |a, b| a == b),
        (Compare::NotEqual(0), |a, b| a != b),
        (Compare::Less(0), |a, b| a < b),
        (Compare::LessOrEqual(0), |a, b| a <= b),
        (Compare::Greater(0), |a, b| a > b),
        (Compare::GreaterOrEqual(0), |a, b| a >= b),
    ];
    let with = |form: Compare, value: u64| match form {
        Compare::Equal(_) => Compare::Equal(value),
        Compare::NotEqual(_) => Compare::NotEqual(value),
        Compare::Less(_) => Compare::Less(value),
        Compare::LessOrEqual(_) => Compare::LessOrEqual(value),
        Compare::Greater(_) => Compare::Greater(value),
        Compare::GreaterOrEqual(_) => Compare::GreaterOrEqual(value),
        Compare::Masked { mask, .. } => Compare::Masked { mask, value },
    };
    for (form, holds) in forms {
        for value in values {
            for wide in [true, false] {
                let condition = Condition { argument: 3, compare: with(form, value), wide };
                let rule = Rule { conditions: vec![condition], action: RET_ALLOW };
                let rules = Rules { calls: [(9, vec![rule])].into(), otherwise: EPERM, newest: 99, unknown: ENOSYS };
                let program = compiled(&rules, X86_64);
                for argument in values {
                    let cut = |value: u64| if wide { value } else { value & 0xffff_ffff };
                    let expected = if holds(cut(argument), cut(value)) { RET_ALLOW } else { EPERM };
                    let found = run(&program, X86_64.audit, 9, [0, 0, 0, argument, 0, 0]);
                    assert_eq!(found, expected, "{argument:#x} {:?} wide={wide}", with(form, value));
                }
            }
        }
    }
}

fn parse(text: &str, capabilities: &[&str]) -> Result<Rules, String> {
    let capabilities: Vec<String> = capabilities.iter().map(|name| (*name).to_owned()).collect();
    let around = profile::Surroundings { architecture: "amd64", capabilities: &capabilities, kernel: (5, 10) };
    profile::parse(text.as_bytes(), &around)
}

#[cfg(target_arch = "x86_64")]
#[test]
fn profiles_of_docker_are_read() {
    let text = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "archMap": [], "syscalls": [
        {"names": ["read", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
        {"names": ["ioctl"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 1, "value": 7, "op": "SCMP_CMP_EQ"},
            {"index": 1, "value": 9, "op": "SCMP_CMP_EQ"}]},
        {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]},
            "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
        {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
        {"names": ["reboot"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.8"}},
        {"names": ["acct"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm"]}}]}"#;
    let (plain, admin) = (parse(text, &[]).unwrap(), parse(text, &["CAP_SYS_ADMIN"]).unwrap());
    let ask = |rules: &Rules, name: &str, arguments: [u64; 6]| {
        run(&compiled(rules, X86_64), X86_64.audit, number_on(X86_64, name).unwrap(), arguments)
    };
    assert_eq!(ask(&plain, "read", [0; 6]), RET_ALLOW);
    assert_eq!(ask(&plain, "mkdir", [0; 6]), ERRNO | 0xd);
    assert_eq!(ask(&plain, "write", [0; 6]), ENOSYS);
    assert_eq!(ask(&plain, "ioctl", [0, 7, 0, 0, 0, 0]), RET_ALLOW);
    assert_eq!(ask(&plain, "ioctl", [0, 9, 0, 0, 0, 0]), RET_ALLOW);
    assert_eq!(ask(&plain, "ioctl", [0, 8, 0, 0, 0, 0]), ENOSYS);
    assert_eq!((ask(&plain, "clone", [0; 6]), ask(&admin, "clone", [0; 6])), (RET_ALLOW, ENOSYS));
    assert_eq!((ask(&plain, "mount", [0; 6]), ask(&admin, "mount", [0; 6])), (ENOSYS, RET_ALLOW));
    assert_eq!((ask(&plain, "ptrace", [0; 6]), ask(&plain, "reboot", [0; 6])), (RET_ALLOW, ENOSYS));
    assert_eq!(ask(&plain, "acct", [0; 6]), ENOSYS);
}

#[test]
fn what_a_profile_asks_for_in_vain_is_named() {
    let error = |text: &str| parse(text, &[]).unwrap_err();
    assert!(error("{").contains("EOF"), "{}", error("{"));
    assert!(error(r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#).contains("SCMP_ACT_NOTIFY"));
    let odd = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO",
        "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_ODD"}]}]}"#;
    assert!(error(odd).contains("SCMP_CMP_ODD"));
    assert!(error(&odd.replace("SCMP_CMP_ODD", "SCMP_CMP_EQ").replace("\"index\": 0", "\"index\": 6")).contains('6'));
}
