//! The namespaces of a sandbox: made on a thread that then ends, and held by mounts. No process
//! waits in them: an empty pod costs no memory of one. Those of a pod with users of its own are made by a
//! child instead ([`super::users`]).

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use super::record::{IPC, NET, USER, UTS};
use super::users::Maker;
use crate::network::{NetworkError, failed};
use crate::reconciler::sandbox::SandboxSpec;

/// Settings of a network of its own: programs that are not root may listen on port 80 and ping, and
/// IPv6, which has no addresses in a pod, is off.
const NETWORK_SYSCTLS: [(&str, &str); 3] = [
    ("net.ipv4.ip_unprivileged_port_start", "0"),
    ("net.ipv4.ping_group_range", "0 2147483647"),
    ("net.ipv6.conf.default.disable_ipv6", "1"),
];

/// Makes and mounts the namespaces of a sandbox in its folder, and runs `inside` in them.
pub(super) fn make(
    spec: &SandboxSpec,
    folder: &Path,
    inside: impl FnOnce() -> Result<(), NetworkError> + Send,
) -> Result<(), NetworkError> {
    let kinds = [(spec.own_network, NET), (!spec.host_ipc, IPC), (true, UTS)];
    let flags = kinds.into_iter().filter(|(own, _)| *own).fold(CloneFlags::empty(), |flags, (_, name)| {
        flags
            | match name {
                NET => CloneFlags::CLONE_NEWNET,
                IPC => CloneFlags::CLONE_NEWIPC,
                _ => CloneFlags::CLONE_NEWUTS,
            }
    });
    let own = kinds.into_iter().filter(|(own, _)| *own).map(|(_, name)| name);
    let names: Vec<&str> = own.chain(spec.users.map(|_| USER)).collect();
    let work = || {
        let mut maker = None;
        if let Some(range) = spec.users {
            let made = Maker::begin(range, flags).map_err(|error| failed("make the pod's namespaces", &error))?;
            maker = Some(made);
        } else {
            unshare(flags).map_err(|error| failed("make the namespaces", &error))?;
        }
        for name in names {
            let path = folder.join(name);
            fs::File::create(&path).map_err(|error| failed(format!("make {}", path.display()), &error))?;
            let made = maker.as_ref().map(|maker| maker.namespace(name));
            let source = made.unwrap_or_else(|| format!("/proc/thread-self/ns/{name}").into());
            mount(Some(&source), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .map_err(|error| failed(format!("mount {}", path.display()), &error))?;
            // The device's root has power over them from outside too. Its own users it keeps.
            if maker.is_some() && name != USER {
                let entered = fs::File::open(&path).and_then(|file| Ok(setns(file, CloneFlags::empty())?));
                entered.map_err(|error| failed(format!("enter {}", path.display()), &error))?;
            }
        }
        drop(maker);
        nix::unistd::sethostname(&spec.hostname).map_err(|error| failed("set the host name", &error))?;
        settle(spec)?;
        inside()
    };
    // Its namespaces are the thread's own, and end with it unless they are mounted.
    std::thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

/// Sets the kernel settings of the calling thread's namespaces.
fn settle(spec: &SandboxSpec) -> Result<(), NetworkError> {
    if spec.own_network {
        for (name, value) in NETWORK_SYSCTLS {
            // A kernel without IPv6 has no such setting, and none is needed.
            drop(set(name, value));
        }
    }
    for (name, value) in &spec.sysctls {
        set(name, value).map_err(|error| failed(format!("set the kernel setting {name} = {value}"), &error))?;
    }
    Ok(())
}

fn set(name: &str, value: &str) -> io::Result<()> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    fs::OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

/// Mounts the memory that the containers of a pod share as files, `/dev/shm`.
pub(super) fn mount_shared_memory(folder: &Path) -> Result<(), NetworkError> {
    let path = folder.join("shm");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    fs::create_dir(&path)
        .and_then(|()| Ok(mount(Some("shm"), &path, Some("tmpfs"), flags, Some("mode=1777,size=65536k"))?))
        .map_err(|error| failed(format!("mount {}", path.display()), &error))
}

/// Unmounts and removes the folder of a sandbox, however far it got.
pub(super) fn clear(folder: &Path) -> Result<(), NetworkError> {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        // Until nothing is mounted there: `EINVAL`.
        while umount2(&entry.path(), MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).is_ok() {}
    }
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed(format!("remove {}", folder.display()), &error))
        }
        _ => Ok(()),
    }
}
