//! Links of one network namespace: bridge, virtual cables, addresses. A `Links` speaks to the
//! namespace in which it was opened, also when its thread moves on.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use futures_util::TryStreamExt;
use netlink_packet_route::address::{AddressAttribute, AddressScope};
use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage, State};
use netlink_packet_route::route::RouteAttribute;
use rtnetlink::{Handle, LinkBridge, LinkBridgePort, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::{NetworkError, netns};

/// Pause between looks at a link that is coming up.
const CARRY_PAUSE: Duration = Duration::from_millis(5);
/// Looks at a link that is coming up: five seconds.
const CARRY_LOOKS: u32 = 1000;

/// A netlink connection to one namespace.
pub struct Links {
    handle: Handle,
    pump: tokio::task::JoinHandle<()>,
}

/// A link as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number in this namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The number of the bridge that it is plugged into.
    pub bridge: Option<u32>,
    /// Whether it carries traffic: both ends are up, and the kernel has taken note of it.
    pub carries: bool,
}

impl Links {
    /// Opens a connection to the namespace of the calling thread; needs a tokio runtime.
    pub fn open() -> Result<Self, NetworkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetworkError::Netlink)?;
        Ok(Self { handle, pump: tokio::spawn(connection) })
    }

    /// Finds a link by its name.
    pub async fn find(&self, name: &str) -> Result<Link, NetworkError> {
        let mut found = Box::pin(self.handle.link().get().match_name(name).execute());
        match found.try_next().await {
            Ok(Some(message)) => Ok(parse(&message)),
            Ok(None) => Err(NetworkError::NoLink { link: name.to_owned() }),
            Err(error) if is_absent(&error) => Err(NetworkError::NoLink { link: name.to_owned() }),
            Err(error) => Err(refused("find link", name, &error)),
        }
    }

    /// Makes a bridge and brings it up.
    pub async fn add_bridge(&self, name: &str) -> Result<(), NetworkError> {
        let bridge = LinkBridge::new(name).up().build();
        self.handle.link().add(bridge).execute().await.map_err(|e| refused("make bridge", name, &e))
    }

    /// Makes a bridge with an address of its own in hardware: it does not change with what is plugged
    /// in, so nobody's neighbour tables grow stale.
    pub async fn add_fixed_bridge(&self, name: &str, hardware: [u8; 6], mtu: u32) -> Result<(), NetworkError> {
        let bridge = LinkBridge::new(name).address(hardware.to_vec()).mtu(mtu).build();
        self.handle.link().add(bridge).execute().await.map_err(|e| refused("make bridge", name, &e))
    }

    /// Lays a cable from this namespace, where it ends as `name`, into another one. Both ends are down.
    pub async fn lay_cable_to(
        &self,
        name: &str,
        hardware: [u8; 6],
        mtu: u32,
        far_namespace: BorrowedFd<'_>,
        far_name: &str,
    ) -> Result<(), NetworkError> {
        let far = LinkUnspec::new_with_name(far_name).mtu(mtu).setns_by_fd(far_namespace.as_raw_fd()).build();
        let cable = LinkVeth::new(name, far_name).set_info_data(InfoData::Veth(InfoVeth::Peer(far)));
        let cable = cable.address(hardware.to_vec()).mtu(mtu).build();
        self.handle.link().add(cable).execute().await.map_err(|e| refused("lay cable", far_name, &e))
    }

    /// Plugs a link into a bridge and brings it up. What comes from it may go back to it: where the
    /// bridge shows its packets to the packet filter, a pod reaches its own published port that way.
    pub async fn plug_in(&self, name: &str, bridge: &str) -> Result<(), NetworkError> {
        let (link, bridge) = (self.find(name).await?, self.find(bridge).await?);
        let change = LinkUnspec::new_with_index(link.index).controller(bridge.index).up().build();
        self.set(change, &format!("plug into {} the link", bridge.name), name).await?;
        let reflecting = LinkBridgePort::new(link.index).hairpin(true).build();
        let set = self.handle.link().set_port(reflecting).execute().await;
        set.map_err(|e| refused("let packets return to link", name, &e))
    }

    /// Sends whatever has no other way to a neighbour.
    pub async fn add_default_route(&self, gateway: Ipv4Addr) -> Result<(), NetworkError> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build();
        let added = self.handle.route().add(route).execute().await;
        added.map_err(|e| refused("add a default route by", &gateway.to_string(), &e))
    }

    /// The smallest packet size of the links that lead to everywhere; `None` where none does.
    pub async fn uplink_mtu(&self) -> Result<Option<u32>, NetworkError> {
        let mut routes = self.handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
        let mut uplinks = Vec::new();
        while let Some(route) = routes.try_next().await.map_err(|e| refused("list the routes of", "all links", &e))? {
            if route.header.destination_prefix_length == 0 {
                uplinks.extend(route.attributes.iter().filter_map(|attribute| match attribute {
                    RouteAttribute::Oif(index) => Some(*index),
                    _ => None,
                }));
            }
        }
        let mut links = self.handle.link().get().execute();
        let mut least = None::<u32>;
        while let Some(link) = links.try_next().await.map_err(|e| refused("list", "all links", &e))? {
            let size = link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::Mtu(bytes) => Some(*bytes),
                _ => None,
            });
            if uplinks.contains(&link.header.index) {
                least = least.into_iter().chain(size).min();
            }
        }
        Ok(least)
    }

    /// The names of all links, and each address of IPv4 with its length and its link's name.
    pub async fn networks(&self) -> Result<(Vec<Link>, Vec<(Ipv4Addr, u8, String)>), NetworkError> {
        let mut links = Vec::new();
        let mut all = self.handle.link().get().execute();
        while let Some(message) = all.try_next().await.map_err(|e| refused("list", "all links", &e))? {
            links.push(parse(&message));
        }
        let mut networks = Vec::new();
        let mut all = self.handle.address().get().execute();
        while let Some(message) = all.try_next().await.map_err(|e| refused("list the addresses of", "all links", &e))? {
            let name = links.iter().find(|link| link.index == message.header.index).map(|link| link.name.clone());
            for attribute in message.attributes {
                if let AddressAttribute::Local(IpAddr::V4(address)) = attribute {
                    networks.push((address, message.header.prefix_len, name.clone().unwrap_or_default()));
                }
            }
        }
        Ok((links, networks))
    }

    /// Lays a cable: its near end is `name` in this namespace, plugged into `bridge`; its far end
    /// is `far_name` in the namespace `far_namespace`. Only the near end is brought up.
    pub async fn add_cable(
        &self,
        name: &str,
        bridge: &str,
        far_namespace: &str,
        far_name: &str,
    ) -> Result<(), NetworkError> {
        // The far end is born here under a name that nothing else has, and renamed on arrival.
        let transit = format!("{name}-far");
        let cable = LinkVeth::new(name, &transit).build();
        self.handle.link().add(cable).execute().await.map_err(|e| refused("lay cable", name, &e))?;
        self.plug(name, bridge).await?;
        self.set_up(name).await?;
        let failed = |source| NetworkError::Namespace { step: "open", name: far_namespace.to_owned(), source };
        let namespace = std::fs::File::open(netns::path(far_namespace)).map_err(failed)?;
        let far = self.find(&transit).await?;
        let moved = LinkUnspec::new_with_index(far.index).name(far_name).setns_by_fd(namespace.as_raw_fd()).build();
        self.set(moved, &format!("move to {far_namespace} the link"), &transit).await
    }

    /// Plugs a link into a bridge.
    pub async fn plug(&self, name: &str, bridge: &str) -> Result<(), NetworkError> {
        let (link, bridge) = (self.find(name).await?, self.find(bridge).await?);
        let change = LinkUnspec::new_with_index(link.index).controller(bridge.index).build();
        self.set(change, &format!("plug into {} the link", bridge.name), name).await
    }

    /// Unplugs a link from its bridge: it stays up, and what is sent into it vanishes.
    pub async fn unplug(&self, name: &str) -> Result<(), NetworkError> {
        let link = self.find(name).await?;
        self.set(LinkUnspec::new_with_index(link.index).nocontroller().build(), "unplug link", name).await
    }

    /// Removes a link, a cable with both its ends. A link that does not exist is no error.
    pub async fn remove(&self, name: &str) -> Result<(), NetworkError> {
        match self.find(name).await {
            Ok(link) => {
                self.handle.link().del(link.index).execute().await.map_err(|e| refused("remove link", name, &e))
            }
            Err(NetworkError::NoLink { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Brings a link up.
    pub async fn set_up(&self, name: &str) -> Result<(), NetworkError> {
        let link = self.find(name).await?;
        self.set(LinkUnspec::new_with_index(link.index).up().build(), "bring up link", name).await
    }

    /// Waits until a link carries traffic: up to a second after both its ends are up, a bridge
    /// drops what comes from it.
    pub async fn wait_until_it_carries(&self, name: &str) -> Result<(), NetworkError> {
        for _ in 0..CARRY_LOOKS {
            if self.find(name).await?.carries {
                return Ok(());
            }
            tokio::time::sleep(CARRY_PAUSE).await;
        }
        let reason = format!("nothing after {:?}; is its other end up?", CARRY_PAUSE * CARRY_LOOKS);
        Err(NetworkError::Link { step: "wait for traffic on link".into(), link: name.to_owned(), reason })
    }

    /// Gives a link an address.
    pub async fn add_address(&self, name: &str, address: IpAddr, prefix: u8) -> Result<(), NetworkError> {
        let link = self.find(name).await?;
        let added = self.handle.address().add(link.index, address, prefix).execute().await;
        added.map_err(|e| refused(&format!("add address {address}/{prefix} to link"), name, &e))
    }

    /// Takes an address from a link.
    pub async fn remove_address(&self, name: &str, address: Ipv4Addr, prefix: u8) -> Result<(), NetworkError> {
        let link = self.find(name).await?;
        let mut all = self.handle.address().get().set_link_index_filter(link.index).execute();
        let step = format!("remove address {address}/{prefix} from link");
        while let Some(message) = all.try_next().await.map_err(|e| refused(&step, name, &e))? {
            let is_it = |a: &AddressAttribute| *a == AddressAttribute::Local(IpAddr::V4(address));
            if message.header.prefix_len == prefix && message.attributes.iter().any(is_it) {
                return self.handle.address().del(message).execute().await.map_err(|e| refused(&step, name, &e));
            }
        }
        Ok(())
    }

    /// The addresses at which others may reach this namespace: none of `lo`, none that are only
    /// valid on one link; IPv4 first.
    pub async fn addresses(&self) -> Result<Vec<IpAddr>, NetworkError> {
        let mut found = Vec::new();
        let mut all = self.handle.address().get().execute();
        while let Some(message) = all.try_next().await.map_err(|e| refused("list the addresses of", "all links", &e))? {
            if message.header.scope != AddressScope::Universe {
                continue;
            }
            for attribute in message.attributes {
                if let AddressAttribute::Address(address) = attribute {
                    found.push(address);
                }
            }
        }
        found.sort_by_key(IpAddr::is_ipv6);
        found.dedup();
        Ok(found)
    }

    async fn set(&self, change: LinkMessage, step: &str, name: &str) -> Result<(), NetworkError> {
        self.handle.link().set(change).execute().await.map_err(|e| refused(step, name, &e))
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

fn parse(message: &LinkMessage) -> Link {
    let mut link = Link { index: message.header.index, name: String::new(), bridge: None, carries: false };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Controller(index) if *index != 0 => link.bridge = Some(*index),
            LinkAttribute::OperState(state) => link.carries = *state == State::Up,
            _ => {}
        }
    }
    link
}

fn is_absent(error: &rtnetlink::Error) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message)
        if message.code.is_some_and(|code| code.get() == -(nix::errno::Errno::ENODEV as i32)))
}

fn refused(step: &str, link: &str, error: &rtnetlink::Error) -> NetworkError {
    let reason = match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io().to_string(),
        other => other.to_string(),
    };
    NetworkError::Link { step: step.to_owned(), link: link.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};

    use super::*;

    /// Namespaces of this test, gone when it ends.
    struct Names(Vec<String>);

    impl Names {
        fn make(names: &[&str]) -> Self {
            let all = names.iter().map(|n| format!("kith-test-{}-{n}", std::process::id())).collect::<Vec<_>>();
            for name in &all {
                netns::create(name).expect("make a network namespace: this test needs root");
            }
            Self(all)
        }
    }

    impl Drop for Names {
        fn drop(&mut self) {
            for name in &self.0 {
                netns::remove(name).expect("remove");
            }
        }
    }

    fn in_namespace<T: Send>(name: &str, work: impl AsyncFnOnce(Links) -> Result<T, NetworkError> + Send) -> T {
        netns::within(name, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(async { work(Links::open()?).await })
        })
        .expect("network")
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 99, 0, last])
    }

    #[test]
    fn two_namespaces_talk_over_a_bridge_until_one_is_unplugged() {
        let names = Names::make(&["switch", "a", "b"]);
        let [switch, a, b] = &names.0[..] else { unreachable!() };
        in_namespace(switch, async |links| {
            links.add_bridge("br0").await?;
            links.add_cable("a", "br0", a, "eth0").await?;
            links.add_cable("b", "br0", b, "eth0").await
        });
        for (name, last) in [(a, 1), (b, 2)] {
            in_namespace(name, async |links| {
                links.set_up("lo").await?;
                links.add_address("eth0", address(last), 24).await?;
                links.set_up("eth0").await
            });
        }
        // A socket stays in the namespace in which it was opened, whoever holds it.
        let found = in_namespace(a, async |links| links.addresses().await);
        assert!(found.contains(&address(1)) && !found.iter().any(IpAddr::is_loopback), "{found:?}");
        let listener = netns::within(a, || Ok::<_, NetworkError>(TcpListener::bind((address(1), 0)).expect("bind")));
        let listener = listener.expect("a");
        let target: SocketAddr = listener.local_addr().expect("address");
        let dial = |from: &str, patience| {
            netns::within(from, || Ok::<_, NetworkError>(TcpStream::connect_timeout(&target, patience).is_ok()))
        };
        assert!(dial(b, Duration::from_secs(5)).expect("b"), "b reaches a over the bridge");
        in_namespace(switch, async |links| links.unplug("b").await);
        assert!(!dial(b, Duration::from_millis(300)).expect("b"), "an unplugged b reaches nobody");
        assert_eq!(in_namespace(switch, async |links| links.find("b").await).bridge, None);
        in_namespace(switch, async |links| links.plug("b", "br0").await);
        assert!(dial(b, Duration::from_secs(5)).expect("b"), "b is plugged in again");
        let here = TcpStream::connect_timeout(&target, Duration::from_millis(300));
        assert!(here.is_err(), "the host has no way in");
    }

    #[test]
    fn a_missing_link_is_named() {
        let names = Names::make(&["empty"]);
        let error = netns::within(&names.0[0], || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(async { Links::open()?.find("nope").await })
        });
        assert_eq!(error.unwrap_err().to_string(), "there is no link nope in this network namespace");
    }

    #[test]
    fn a_namespace_is_made_once_and_removed_twice() {
        let name = format!("kith-test-{}-once", std::process::id());
        netns::create(&name).expect("make a network namespace: this test needs root");
        assert!(matches!(netns::create(&name), Err(NetworkError::Exists { .. })));
        assert!(netns::names().contains(&name) && netns::inode(&name).is_some());
        netns::remove(&name).expect("remove");
        assert!(!netns::exists(&name) && !netns::path(&name).exists());
        netns::remove(&name).expect("nothing to remove is fine");
        assert!(netns::enter(&name).is_err());
    }
}
