//! Hosts joined by a bridge, with links that can be cut one direction at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth};

use crate::host::{Host, NetworkError};

/// The bridge's name in its namespace.
const BRIDGE: &str = "bridge";
/// Every host's interface.
const INTERFACE: &str = "eth0";
/// The index that the kernel gives loopback in every namespace.
const LOOPBACK_INDEX: u32 = 1;
/// Bits of an address that all hosts share.
const PREFIX_BITS: u8 = 24;

/// A host by the last byte of its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HostId(pub(crate) u8);

impl HostId {
    /// Its address.
    pub(crate) const fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 83, 0, self.0)
    }

    /// Its interface's hardware address: of those that anybody may give out.
    const fn hardware(self) -> [u8; 6] {
        [0x02, b'R', b'A', b'F', b'T', self.0]
    }
}

/// A way from one host to another.
pub(crate) type Way = (HostId, HostId);

/// Hosts and the bridge between them.
pub(crate) struct Lan {
    bridge: Host,
    bridge_index: u32,
    hosts: BTreeMap<HostId, Member>,
    cut: BTreeSet<Way>,
}

struct Member {
    host: Host,
    interface: u32,
}

/// Whether hosts can be made here.
///
/// # Errors
/// Why not.
pub fn check_namespaces() -> Result<(), NetworkError> {
    let mut lan = Lan::create()?;
    lan.add(HostId(1))
}

impl Lan {
    /// A bridge without hosts.
    pub(crate) fn create() -> Result<Self, NetworkError> {
        let bridge = Host::create("bridge")?;
        let bridge_index = bridge.run(|netlink| {
            netlink.ask(async |handle| {
                let link = LinkBridge::new(BRIDGE).build();
                let made = handle.link().add(link).execute().await;
                made.map_err(NetworkError::netlink("make a bridge"))?;
                index_of(handle, BRIDGE).await
            })
        })?;
        Ok(Self {
            bridge,
            bridge_index,
            hosts: BTreeMap::new(),
            cut: BTreeSet::new(),
        })
    }

    /// Makes a host and joins it to all others. Its number must never have been used before: the
    /// kernel removes the links of a former one in its own time.
    pub(crate) fn add(&mut self, id: HostId) -> Result<(), NetworkError> {
        let host = Host::create(&format!("host-{}", id.0))?;
        let port = format!("host{}", id.0);
        let bridge_namespace = self.bridge.namespace()?;
        let port_name = port.clone();
        let interface = host.run(move |netlink| {
            netlink.ask(async |handle| {
                let veth = LinkVeth::new(INTERFACE, &port_name)
                    .address(id.hardware().to_vec())
                    .build();
                let links = handle.link();
                let made = links.add(veth).execute().await;
                made.map_err(NetworkError::netlink("make a pair of links"))?;
                let moved = LinkUnspec::new_with_name(&port_name)
                    .setns_by_fd(bridge_namespace.as_raw_fd())
                    .build();
                let moved = links.set(moved).execute().await;
                moved.map_err(NetworkError::netlink("move a link to the bridge"))?;
                let interface = index_of(handle, INTERFACE).await?;
                let address = IpAddr::V4(id.address());
                let adding = handle.address().add(interface, address, PREFIX_BITS);
                let added = adding.execute().await;
                added.map_err(NetworkError::netlink("give a host its address"))?;
                for index in [LOOPBACK_INDEX, interface] {
                    set_up(handle, index).await?;
                }
                Ok(interface)
            })
        })?;
        let master = self.bridge_index;
        self.bridge.run(move |netlink| {
            netlink.ask(async |handle| {
                let joined = LinkUnspec::new_with_name(&port).controller(master).up();
                let joined = handle.link().set(joined.build()).execute().await;
                joined.map_err(NetworkError::netlink("join a host to the bridge"))
            })
        })?;
        self.hosts.insert(id, Member { host, interface });
        let others: Vec<_> = self
            .hosts
            .keys()
            .copied()
            .filter(|other| *other != id)
            .collect();
        for other in &others {
            self.point(*other, &[id])?;
        }
        self.point(id, &others)
    }

    /// The host of this number.
    pub(crate) fn host(&self, id: HostId) -> &Host {
        &self.hosts[&id].host
    }

    /// Takes a host away.
    pub(crate) fn remove(&mut self, id: HostId) {
        self.hosts.remove(&id);
        self.cut.retain(|(from, to)| *from != id && *to != id);
    }

    /// Cuts these ways and mends all others.
    pub(crate) fn set_cut(&mut self, cut: BTreeSet<Way>) -> Result<(), NetworkError> {
        let changed: Vec<Way> = self.cut.symmetric_difference(&cut).copied().collect();
        self.cut = cut;
        let mut by_sender: BTreeMap<HostId, Vec<HostId>> = BTreeMap::new();
        for (from, to) in changed {
            by_sender.entry(from).or_default().push(to);
        }
        for (from, to) in by_sender {
            self.point(from, &to)?;
        }
        Ok(())
    }

    /// Takes a host's own interface down, so that its sends fail at once, or up again.
    pub(crate) fn plug(&mut self, id: HostId, plug: Plug) -> Result<(), NetworkError> {
        let interface = self.hosts[&id].interface;
        self.hosts[&id].host.run(move |netlink| {
            netlink.ask(async |handle| match plug {
                Plug::In => set_up(handle, interface).await,
                Plug::Out => {
                    let down = LinkUnspec::new_with_index(interface).down().build();
                    let set = handle.link().set(down).execute().await;
                    set.map_err(NetworkError::netlink("take a link down"))
                }
            })
        })?;
        match plug {
            // An interface that was down has forgotten its neighbours.
            Plug::In => {
                let all: Vec<_> = self.hosts.keys().copied().collect();
                let others: Vec<_> = all.into_iter().filter(|other| *other != id).collect();
                self.point(id, &others)
            }
            Plug::Out => Ok(()),
        }
    }

    /// Tells a host where these others are, or that it sends to them in vain.
    fn point(&self, from: HostId, to: &[HostId]) -> Result<(), NetworkError> {
        let Some(Member { host, interface }) = self.hosts.get(&from) else {
            return Ok(());
        };
        let interface = *interface;
        let entry = |to: &HostId| match self.cut.contains(&(from, *to)) {
            true => (*to, from.hardware()),
            false => (*to, to.hardware()),
        };
        let entries: Vec<_> = to.iter().map(entry).collect();
        host.run(move |netlink| {
            netlink.ask(async |handle| {
                for (to, hardware) in entries {
                    let neighbours = handle.neighbours();
                    let entry = neighbours
                        .add(interface, IpAddr::V4(to.address()))
                        .link_layer_address(&hardware)
                        .state(NeighbourState::Permanent)
                        .replace();
                    let set = entry.execute().await;
                    set.map_err(NetworkError::netlink("set a neighbour"))?;
                }
                Ok(())
            })
        })
    }
}

/// Whether a host's interface is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plug {
    /// It is.
    In,
    /// It is not.
    Out,
}

async fn index_of(handle: &Handle, name: &'static str) -> Result<u32, NetworkError> {
    let found = handle.link().get().match_name(name).execute();
    let found = std::pin::pin!(found).try_next().await;
    let found = found.map_err(NetworkError::netlink("look at a link"))?;
    let link = found.ok_or(NetworkError::NoLink { name })?;
    Ok(link.header.index)
}

async fn set_up(handle: &Handle, index: u32) -> Result<(), NetworkError> {
    let up = LinkUnspec::new_with_index(index).up().build();
    let set = handle.link().set(up).execute().await;
    set.map_err(NetworkError::netlink("take a link up"))
}
