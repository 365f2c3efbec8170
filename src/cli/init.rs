//! `kith init`: founds a fleet of this one device, without asking anybody.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::describe::now;
use super::failure::{Code, Doing, Failure};
use super::output::{note, say, span};
use super::{Session, parse_span, wait};
use crate::config::Config;
use crate::identity::{Enrolment, Identity, IdentityError, Role, Token, TokenTerms};
use crate::network::link::Links;

/// How long the first join token works.
const FIRST_TTL: &str = "1h";

/// Settings that may be given on the command line; the agent must be given the same ones.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Place {
    /// Name of this device in the fleet [default: of the settings, else the host name]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Folder of the replicated state [default: of the settings]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Address at which other devices reach this one; may be given several times
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) advertise: Vec<SocketAddr>,
}

impl Place {
    /// The settings with what the command line says instead.
    pub(crate) fn over(&self, mut config: Config) -> Config {
        config.name = self.name.clone().unwrap_or(config.name);
        config.data_dir = self.data_dir.clone().unwrap_or(config.data_dir);
        if !self.advertise.is_empty() {
            config.advertise.clone_from(&self.advertise);
        }
        config
    }
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    #[command(flatten)]
    place: Place,
    /// How long the first join token works
    #[arg(long, value_parser = parse_span, default_value = FIRST_TTL, value_name = "SPAN")]
    ttl: Duration,
    /// How many devices may join with the first token
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,
    /// Print the first token alone, for scripts
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) fn run(args: &InitArgs, session: &Session) -> Result<(), Failure> {
    let config = args.place.over(session.config()?);
    let name = device_name(&config)?;
    let addresses = wait(addresses(&config))?;
    let token = found(&config, &name, addresses, args.ttl, args.uses)?;
    if args.quiet {
        return say!("{token}");
    }
    note!("{name} is now a fleet of one device.");
    note!("{} Then kith status shows the fleet.", session.keeper().after_enrolment());
    note!("Then type on each other device, within {}:", span(args.ttl.as_secs()));
    note!("");
    say!("kith join {token}")
}

/// Founds the fleet on disk and returns its first join token.
pub(crate) fn found(
    config: &Config,
    name: &str,
    addresses: Vec<SocketAddr>,
    ttl: Duration,
    uses: u32,
) -> Result<Token, Failure> {
    refuse_enrolled(config)?;
    let identity = Identity::load_or_create(&config.data_dir)?;
    let member = identity.member(name, addresses, config.api_listen.port()).labelled(&config.labels);
    let created = now();
    let terms =
        TokenTerms { role: Role::Device, uses, expires: created.plus(ttl), created, created_by: "kith init".into() };
    let (enrolment, token) = Enrolment::found(&identity, member, terms)?;
    enrolment.store(&config.data_dir)?;
    Ok(token)
}

/// A device is of one fleet at most.
pub(crate) fn refuse_enrolled(config: &Config) -> Result<(), Failure> {
    let Some(enrolment) = Enrolment::load(&config.data_dir)? else { return Ok(()) };
    Err(Failure::new(Code::Refused, format!("this device is {} of fleet {} already", enrolment.name, enrolment.fleet))
        .hint("kith status shows its fleet, kith leave takes it out"))
}

/// The device's name: as set, else the host's; a label of the DNS, for it names a node.
pub(crate) fn device_name(config: &Config) -> Result<String, Failure> {
    let (name, set) = if config.name.is_empty() {
        let host = nix::unistd::gethostname().doing(|| "read the host name".into())?;
        let host = host.to_string_lossy().to_lowercase();
        (host.split('.').next().unwrap_or_default().to_owned(), false)
    } else {
        (config.name.clone(), true)
    };
    let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let good = (1..=63).contains(&name.len())
        && name.chars().all(|c| letter(c) || c == '-')
        && name.starts_with(letter)
        && name.ends_with(letter);
    if good {
        return Ok(name);
    }
    let source = if set { "the name" } else { "the host name" };
    Err(Failure::usage(format!("{source} {name:?} can not name a device: it takes 1 to 63 of a-z, 0-9 and -"))
        .hint("choose one: --name NAME, or name = \"...\" in agent.toml"))
}

/// Where others reach this device: as set, else at the addresses of its links.
pub(crate) async fn addresses(config: &Config) -> Result<Vec<SocketAddr>, Failure> {
    if !config.advertise.is_empty() {
        return Ok(config.advertise.clone());
    }
    let port = config.peer_listen.port();
    let own = config.peer_listen.ip();
    if !own.is_unspecified() {
        return Ok(vec![SocketAddr::new(own, port)]);
    }
    let usable = |address: &IpAddr| own.is_ipv6() || address.is_ipv4();
    let found = Links::open()?.addresses().await?;
    Ok(found.into_iter().filter(usable).map(|address| SocketAddr::new(address, port)).collect())
}

impl From<IdentityError> for Failure {
    fn from(error: IdentityError) -> Self {
        let failure = Self::of(Code::Failed, &error);
        match &error {
            IdentityError::Disk { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                failure.hint("this needs root: sudo kith ...")
            }
            _ => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_is_founded_once() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { data_dir: dir.path().to_owned(), ..Config::default() };
        let address = "192.0.2.1:7443".parse().unwrap();
        let token = found(&config, "d1", vec![address], Duration::from_mins(1), 2).unwrap();
        let enrolment = Enrolment::load(dir.path()).unwrap().unwrap();
        assert_eq!((&enrolment.fleet, &enrolment.name[..]), (&token.fleet, "d1"));
        assert_eq!(token.addresses, [address]);
        let record = &enrolment.initial.unwrap().tokens[&token.id];
        assert_eq!((record.uses_left, record.expires.since(record.created).as_secs()), (2, 60));
        let again = found(&config, "d1", Vec::new(), Duration::from_mins(1), 1).unwrap_err();
        assert_eq!(again.code, Code::Refused);
        assert!(again.text().contains("kith leave"), "{}", again.text());
    }

    #[test]
    fn names_that_can_not_be_nodes_are_refused() {
        let named = |name: &str| device_name(&Config { name: name.into(), ..Config::default() });
        assert_eq!(named("d1").unwrap(), "d1");
        for wrong in ["D1", "-d", "d_1", &"d".repeat(64)] {
            assert_eq!(named(wrong).unwrap_err().code, Code::Usage, "{wrong}");
        }
    }
}
