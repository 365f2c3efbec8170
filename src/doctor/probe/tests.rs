use std::fs;
use std::path::Path;

use super::super::facts::Version;
use super::{System, disk, host};

/// Files of a kernel and a system, elsewhere.
fn system(files: &[(&str, &str)]) -> (tempfile::TempDir, System) {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = folder.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let system = System(folder.path().to_owned());
    (folder, system)
}

const VERSION_2: &str = "25 1 0:22 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";

#[test]
fn a_raspberry_pi_without_the_memory_controller() {
    let (_folder, pi) = system(&[
        ("/proc/self/mountinfo", VERSION_2),
        ("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io pids\n"),
        ("/proc/cgroups", "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t0\t60\t1\nmemory\t0\t60\t0\n"),
        ("/proc/cmdline", "coherent_pool=1M cgroup_disable=memory root=PARTUUID=x\n"),
        ("/boot/firmware/cmdline.txt", "root=PARTUUID=x\n"),
        ("/proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0"),
        ("/sys/class/thermal/thermal_zone0/type", "cpu-thermal\n"),
        ("/sys/class/thermal/thermal_zone0/temp", "58426\n"),
        ("/sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n"),
        ("/sys/class/hwmon/hwmon1/name", "rpi_volt\n"),
        ("/sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1\n"),
    ]);
    let groups = host::cgroups(&pi);
    assert_eq!((groups.version, groups.read_only), (Version::V2, Some(false)));
    assert_eq!((groups.controllers.len(), groups.disabled.as_slice()), (4, ["memory".to_owned()].as_slice()));
    assert_eq!(groups.command_file.as_deref(), Some("/boot/firmware/cmdline.txt"));
    assert_eq!(host::model(&pi), "Raspberry Pi 4 Model B Rev 1.4");
    let power = host::power(&pi);
    assert_eq!((power.throttled, power.low_voltage), (Some(0x5_0005), Some(true)));
    assert_eq!(power.temperatures["cpu-thermal"], 58_426);
}

#[test]
fn hierarchies_of_version_1_and_both() {
    let first = "30 24 0:26 / /sys/fs/cgroup/memory ro,nosuid - cgroup cgroup rw,memory\n\
                 31 24 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                 32 24 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n";
    let (_folder, one) =
        system(&[("/proc/self/mountinfo", first), ("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes", "0")]);
    let groups = host::cgroups(&one);
    assert_eq!((groups.version, groups.read_only, groups.swap), (Version::V1, Some(true), Some(true)));
    assert_eq!(groups.controllers, ["memory", "cpu", "cpuacct"]);
    let both = format!("{first}33 24 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
    let (_folder, both) = system(&[("/proc/self/mountinfo", &both)]);
    assert_eq!(host::cgroups(&both).version, Version::Hybrid);
    let (_folder, none) = system(&[("/proc/self/mountinfo", "22 1 179:2 / / rw - ext4 /dev/root rw\n")]);
    assert_eq!(host::cgroups(&none).version, Version::None);
}

#[test]
fn a_chip_tells_of_its_life_and_a_card_does_not() {
    let (_folder, chip) = system(&[
        ("/sys/block/mmcblk1/device/type", "MMC\n"),
        ("/sys/block/mmcblk1/device/name", "DG4016\n"),
        ("/sys/block/mmcblk1/device/date", "11/2020\n"),
        ("/sys/block/mmcblk1/device/life_time", "0x02 0x0a\n"),
        ("/sys/block/mmcblk1/device/pre_eol_info", "0x02\n"),
        ("/sys/block/mmcblk0/device/type", "SD\n"),
    ]);
    let card = disk::card(&chip, "mmcblk1").unwrap();
    assert_eq!((card.life.as_slice(), card.spare, card.made.as_str()), ([2, 10].as_slice(), Some(2), "11/2020"));
    let card = disk::card(&chip, "mmcblk0").unwrap();
    assert_eq!((card.kind.as_str(), card.life.len(), card.spare), ("SD", 0, None));
    assert_eq!(disk::card(&chip, "sda"), None);
}

#[test]
fn memory_and_containers() {
    let (folder, small) = system(&[
        ("/proc/meminfo", "MemTotal:  242000 kB\nMemAvailable: 90000 kB\nSwapTotal: 102396 kB\nSwapFree: 50000 kB\n"),
        ("/proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n/var/swap file 102396 0 -2\n"),
        ("/proc/vmstat", "nr_free_pages 7\noom_kill 3\n"),
        ("/proc/pressure/memory", "some avg10=1.00 avg60=12.34 avg300=0.00 total=5\nfull avg10=0.00\n"),
        ("/proc/1/environ", "PATH=/bin\0container=lxc\0"),
    ]);
    let memory = host::memory(&small);
    assert_eq!((memory.total, memory.killed, memory.waiting), (Some(242_000 << 10), Some(3), Some(1234)));
    assert_eq!(memory.swap_devices, ["/var/swap"]);
    assert_eq!(host::container(&small).as_deref(), Some("lxc"));
    fs::write(folder.path().join(".dockerenv"), "").unwrap();
    assert_eq!(host::container(&small).as_deref(), Some("docker"));
    assert_eq!(host::container(&System(Path::new("/nowhere").to_owned())), None);
}
