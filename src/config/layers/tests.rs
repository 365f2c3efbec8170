use super::*;

const FILE: &str = "/etc/kith/agent.toml";

fn settle(text: &str, environment: &[(&str, &str)], flags: &[&str]) -> Result<Settled, String> {
    let flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
    let environment = environment.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    let layers = Layers { file: Some((Path::new(FILE), text)), environment, strict: true, flags: &flags };
    layers.settle().map_err(|error| error.to_string())
}

fn mistakes(text: &str) -> String {
    settle(text, &[], &[]).unwrap_err()
}

#[test]
fn every_mistake_of_a_file_is_told_with_its_line_and_what_to_write() {
    let said = mistakes(
        "nmae = \"x\"\nlog_max_bytes = \"10 MiB\"\npids_limit = -1\nprofile = \"lam\"\npeer_listen = \"7443\"\n\
         pod_network = \"10.42.0.1/16\"\ndata_dir = \"here\"\n\n[images]\npulls_at_onec = 2\nlayers_at_once = 40\n\n\
         [[devices]]\nresource = \"kith.dev/x\"\npath = [\"/dev/x\"]\n\n\
         [registries.\"a:1\"]\ninsecure = \"yes\"\nca_fil = \"/x\"\n",
    );
    for part in [
        "12 mistakes in the settings",
        "/etc/kith/agent.toml:1: nmae is not a setting\n      did you mean name?",
        "/etc/kith/agent.toml:2: log_max_bytes is \"10 MiB\", but takes a whole number, 0 or more\n      write log_max_bytes = 10485760\n      Bytes that one log file",
        "/etc/kith/agent.toml:3: pids_limit is -1, but takes a whole number, 0 or more",
        "/etc/kith/agent.toml:4: profile is \"lam\", but must be lan, wan or metered\n      did you mean \"lan\"?",
        "/etc/kith/agent.toml:5: peer_listen is \"7443\", but takes ADDRESS:PORT",
        "/etc/kith/agent.toml:6: pod_network is \"10.42.0.1/16\": ",
        "did you mean 10.42.0.0/16?",
        "/etc/kith/agent.toml:10: images.pulls_at_onec is not a setting\n      did you mean pulls_at_once?",
        "/etc/kith/agent.toml:15: devices[0].path is not a setting\n      did you mean paths?",
        "/etc/kith/agent.toml:18: registries.\"a:1\".insecure is \"yes\", but takes true or false",
        "/etc/kith/agent.toml:19: registries.\"a:1\".ca_fil is not a setting\n      did you mean ca_file?",
    ] {
        assert!(said.contains(part), "missing: {part}\n{said}");
    }
}

#[test]
fn values_that_can_not_work_together_are_told_with_their_lines_too() {
    let said = mistakes(
        "profile = \"metered\"\ndata_dir = \"here\"\n[labels]\n\"kith.dev/voter\" = \"often\"\n[images]\nlayers_at_once = 40\n",
    );
    for part in [
        "agent.toml:2: data_dir is here",
        "lost_after_seconds is 10, but must be at least 600",
        "agent.toml:4: labels.\"kith.dev/voter\"",
        "agent.toml:6: images.layers_at_once is 40, but must be from 1 to 16",
    ] {
        assert!(said.contains(part), "missing: {part}\n{said}");
    }
}

#[test]
fn what_is_no_toml_is_told_with_its_lines() {
    let said = mistakes("name = \npids_limit = 5\nlog_max_files 3\n");
    assert!(said.contains("agent.toml:1: ") && said.contains("agent.toml:3: "), "{said}");
    assert!(mistakes("name = \"a\"\nname = \"b\"\n").contains("agent.toml:2: "));
}

#[test]
fn the_later_layer_counts_and_all_are_known() {
    let environment = [
        ("KITH_PIDS_LIMIT", "7"),
        ("KITH_IMAGES_PULLS_AT_ONCE", "4"),
        ("KITH_ADVERTISE", "10.0.0.1:7443, 10.0.0.2:7443"),
        ("KITH_NAME", "5"),
        ("KITH_LABELS", "zone=barn,row=3"),
        ("KITH_SOCKET", "/x"),
        ("PATH", "/bin"),
    ];
    let text = "pids_limit = 9\nlog_max_files = 4\ndevice_profiles = [\"tiny\"]\n[labels]\nrack = \"1\"\n";
    let settled = settle(text, &environment, &["images.pulls_at_once=5", "labels.row=4"]).unwrap();
    let config = &settled.config;
    assert_eq!((config.pids_limit, config.log_max_files, config.images.pulls_at_once), (7, 4, 5));
    assert_eq!((config.name.as_str(), config.advertise.len(), config.log_max_bytes), ("5", 2, 1 << 20));
    let labels: Vec<(&str, &str)> = config.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(labels, [("row", "4"), ("zone", "barn")], "the environment replaces the whole table");
    let origin = |key: &str| settled.list().into_iter().find(|setting| setting.key == key).unwrap().origin;
    assert_eq!(origin("pids_limit"), "KITH_PIDS_LIMIT");
    assert_eq!(origin("log_max_files"), "/etc/kith/agent.toml:2");
    assert_eq!(origin("images.pulls_at_once"), "--set");
    assert_eq!(origin("labels.zone"), "KITH_LABELS");
    assert_eq!(origin("labels.row"), "--set");
    assert_eq!(origin("images.layers_at_once"), "profile tiny");
    assert_eq!(origin("standbys"), "default");
}

#[test]
fn mistakes_of_variables_and_flags_are_told_beside_those_of_the_file() {
    let environment = [("KITH_PIDS_LIMTI", "7"), ("KITH_LOG_MAX_BYTES", "many"), ("KITH_STANDBYS", "0")];
    let said = settle("nmae = \"x\"\n", &environment, &["pids_limit", "frob=1", "api_listen=x"]).unwrap_err();
    for part in [
        "agent.toml:1: nmae",
        "KITH_PIDS_LIMTI: no setting has this name\n      did you mean KITH_PIDS_LIMIT?",
        "KITH_LOG_MAX_BYTES: log_max_bytes is \"many\"",
        "KITH_STANDBYS: standbys is 0",
        "--set pids_limit: there is no =",
        "--set frob=1: frob is not a setting",
        "--set: api_listen is \"x\", but takes ADDRESS:PORT",
    ] {
        assert!(said.contains(part), "missing: {part}\n{said}");
    }
}

#[test]
fn a_command_that_only_asks_does_not_mind_other_variables() {
    let environment = vec![("KITH_SEED".to_owned(), "7".to_owned())];
    let layers = Layers { environment: environment.clone(), ..Layers::default() };
    assert!(layers.settle().is_ok());
    assert!(Layers { environment, strict: true, ..Layers::default() }.settle().is_err());
}

#[test]
fn every_setting_has_a_variable_of_its_own() {
    let names: Vec<String> = Reader::new().keys().iter().map(|path| variable(path)).collect();
    let unique: BTreeSet<&String> = names.iter().collect();
    assert_eq!(unique.len(), names.len());
    assert!(OTHER_VARIABLES.iter().all(|other| !names.iter().any(|name| name == other)));
    assert!(names.iter().any(|name| name == "KITH_EVICTION_MEMORY_AVAILABLE"));
}
