//! Which endpoint to ask: the last that worked, the leader it named, or any. Pure: time is an
//! argument, counted from any fixed moment.
//!
//! The endpoints change with the cluster: [`Route::set_members`] adds the addresses of new members
//! and drops those of former ones. An endpoint that was given under another name than the
//! member's own (an alias, a forwarded port) stays as long as the node behind it is a member. The
//! endpoints that were given are never forgotten: [`Route::start_over`] returns to them.

use std::time::Duration;

use raft_proto::NodeId;

use crate::protocol::{MemberInfo, Redirect};

/// Most endpoints a client remembers: those it was given, those of the members, and leaders it
/// was told of.
pub const MAX_ENDPOINTS: usize = 128;
/// How long an endpoint that failed is avoided: about as long as the others may still take it for
/// the leader. Theirs is no good advice then.
pub const SUSPICION: Duration = Duration::from_millis(750);

/// The endpoints of a cluster, and which of them is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    endpoints: Vec<Endpoint>,
    /// The endpoint to ask, while there is no reason to ask another.
    preferred: Option<usize>,
    /// Where a search among all of them begins, so that not every search asks the same first.
    first: usize,
    /// What was given at the start.
    given: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Endpoint {
    address: String,
    /// It failed, and is avoided until then.
    suspect_until: Duration,
    /// Which node answered there last.
    node: Option<NodeId>,
}

/// What to do after a redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Ask the leader that was named, at once.
    Follow,
    /// No leader is known that is worth asking: pause first.
    Wait,
}

impl Route {
    /// Knows these endpoints (`host:port`) and prefers none. Duplicates and what exceeds
    /// [`MAX_ENDPOINTS`] are dropped.
    #[must_use]
    pub fn new(endpoints: impl IntoIterator<Item = String>) -> Self {
        let mut route = Self {
            endpoints: Vec::new(),
            preferred: None,
            first: 0,
            given: Vec::new(),
        };
        for endpoint in endpoints {
            route.position_of(&endpoint);
        }
        route.given = route.endpoints().map(str::to_owned).collect();
        route
    }

    /// Whether the endpoint is known.
    #[must_use]
    pub fn knows(&self, address: &str) -> bool {
        self.endpoints().any(|endpoint| endpoint == address)
    }

    /// This node has answered at this endpoint.
    pub fn identify(&mut self, address: &str, node: NodeId) {
        if let Some(index) = self.position_of(address) {
            self.endpoints[index].node = Some(node);
        }
    }

    /// These are the members now: their addresses are endpoints, and what leads to no member is
    /// none any more.
    pub fn set_members(&mut self, members: &[MemberInfo]) {
        assert!(!members.is_empty(), "a cluster has members");
        let preferred = self.preferred().map(str::to_owned);
        self.endpoints.retain(|endpoint| {
            members.iter().any(|member| {
                member.address == endpoint.address || endpoint.node == Some(member.id)
            })
        });
        for member in members {
            self.position_of(&member.address);
        }
        self.preferred =
            preferred.and_then(|address| self.endpoints.iter().position(|e| e.address == address));
        self.first %= self.endpoints.len().max(1);
    }

    /// None of the endpoints can be reached: those that were given are tried again, too.
    pub fn start_over(&mut self) {
        for address in std::mem::take(&mut self.given) {
            self.position_of(&address);
            self.given.push(address);
        }
    }

    /// The endpoint to ask; `None` means any.
    #[must_use]
    pub fn preferred(&self) -> Option<&str> {
        self.preferred
            .map(|index| &self.endpoints[index].address[..])
    }

    /// All endpoints in the order in which they became known.
    pub fn endpoints(&self) -> impl Iterator<Item = &str> {
        self.endpoints.iter().map(|endpoint| &endpoint.address[..])
    }

    /// All endpoints in the order in which to try them; those that just failed come last.
    #[must_use]
    pub fn all(&self, now: Duration) -> Vec<&str> {
        let (before, from) = self.endpoints.split_at(self.first);
        let turn = || from.iter().chain(before);
        let good = turn().filter(|endpoint| endpoint.suspect_until <= now);
        let suspect = turn().filter(|endpoint| endpoint.suspect_until > now);
        good.chain(suspect)
            .map(|endpoint| &endpoint.address[..])
            .collect()
    }

    /// An endpoint works.
    pub fn works(&mut self, address: &str) {
        if self.preferred.is_none() {
            self.preferred = self.position_of(address);
        }
    }

    /// An endpoint that failed has answered again.
    pub fn trust(&mut self, address: &str) {
        if let Some(index) = self.position_of(address) {
            self.endpoints[index].suspect_until = Duration::ZERO;
        }
    }

    /// An endpoint does not work: it cannot be reached, or does not answer.
    pub fn fails(&mut self, address: &str, now: Duration) {
        if let Some(index) = self.position_of(address) {
            self.endpoints[index].suspect_until = now + SUSPICION;
        }
        self.leave(address);
    }

    /// Asks another endpoint than this one, which does nothing wrong.
    pub fn leave(&mut self, address: &str) {
        if self.preferred() == Some(address) {
            self.preferred = None;
        }
        if self
            .endpoints
            .get(self.first)
            .is_some_and(|first| first.address == address)
        {
            self.first = (self.first + 1) % self.endpoints.len();
        }
    }

    /// An endpoint says that it does not lead. What an endpoint says that is not the preferred
    /// one any more is old news.
    pub fn redirected(&mut self, from: &str, redirect: &Redirect, now: Duration) -> Advice {
        if self.preferred().is_some_and(|preferred| preferred != from) {
            return Advice::Follow;
        }
        let leader = match &redirect.address {
            Some(address) if address != from => self.position_of(address),
            Some(_) | None => None,
        };
        match leader {
            Some(index) if self.endpoints[index].suspect_until <= now => {
                self.preferred = Some(index);
                Advice::Follow
            }
            // It will soon know better than to name one that failed.
            Some(_) => Advice::Wait,
            None => {
                self.leave(from);
                Advice::Wait
            }
        }
    }

    /// The place of an endpoint, which is added if it is new and there is room.
    fn position_of(&mut self, address: &str) -> Option<usize> {
        let known = self
            .endpoints
            .iter()
            .position(|endpoint| endpoint.address == address);
        known.or_else(|| {
            if self.endpoints.len() >= MAX_ENDPOINTS {
                return None;
            }
            self.endpoints.push(Endpoint {
                address: address.to_owned(),
                suspect_until: Duration::ZERO,
                node: None,
            });
            Some(self.endpoints.len() - 1)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(9);

    fn route() -> Route {
        Route::new(["a:1", "b:2", "c:3", "b:2"].map(str::to_owned))
    }

    fn to(address: &str) -> Redirect {
        Redirect {
            leader: None,
            address: Some(address.to_owned()),
        }
    }

    #[test]
    fn the_leader_is_followed_even_to_an_endpoint_not_given() {
        let mut route = route();
        route.works("b:2");
        assert_eq!(route.redirected("b:2", &to("d:4"), NOW), Advice::Follow);
        assert_eq!(route.preferred(), Some("d:4"));
        assert_eq!(route.all(NOW), ["a:1", "b:2", "c:3", "d:4"]);
    }

    #[test]
    fn old_news_does_not_lead_away_from_the_leader() {
        let mut route = route();
        route.works("b:2");
        route.redirected("b:2", &to("c:3"), NOW);
        // Requests that were under way to b come back one after the other.
        route.redirected("b:2", &to("a:1"), NOW);
        route.redirected("b:2", &Redirect::default(), NOW);
        route.fails("b:2", NOW);
        assert_eq!(route.preferred(), Some("c:3"));
        route.works("a:1");
        assert_eq!(route.preferred(), Some("c:3"));
    }

    #[test]
    fn without_a_hint_another_endpoint_is_asked_first() {
        let mut route = route();
        route.works("a:1");
        assert_eq!(
            route.redirected("a:1", &Redirect::default(), NOW),
            Advice::Wait
        );
        assert_eq!(route.preferred(), None);
        assert_eq!(route.all(NOW)[0], "b:2");
        // A node that names itself as the leader it is not makes no loop.
        route.works("b:2");
        assert_eq!(route.redirected("b:2", &to("b:2"), NOW), Advice::Wait);
        assert_eq!((route.preferred(), route.all(NOW)[0]), (None, "c:3"));
    }

    #[test]
    fn a_dead_leader_is_not_asked_again_because_followers_still_name_it() {
        let mut route = route();
        route.works("a:1");
        route.fails("a:1", NOW);
        assert_eq!(route.all(NOW), ["b:2", "c:3", "a:1"]);
        route.works("b:2");
        assert_eq!(route.redirected("b:2", &to("a:1"), NOW), Advice::Wait);
        assert_eq!(route.preferred(), Some("b:2"));
        // It may have been slow and not dead: it gets another chance.
        let later = NOW + SUSPICION;
        assert_eq!(route.redirected("b:2", &to("a:1"), later), Advice::Follow);
        assert_eq!(route.preferred(), Some("a:1"));
    }

    fn members(list: &[(u64, &str)]) -> Vec<MemberInfo> {
        let member = |(id, address): &(u64, &str)| MemberInfo {
            id: NodeId(*id),
            address: (*address).to_owned(),
            role: crate::protocol::MemberRole::Voter,
            incarnation: None,
        };
        list.iter().map(member).collect()
    }

    #[test]
    fn endpoints_follow_the_members() {
        let mut route = route();
        route.works("b:2");
        route.set_members(&members(&[(2, "b:2"), (3, "c:3"), (4, "d:4")]));
        assert_eq!(route.all(NOW), ["b:2", "c:3", "d:4"]);
        assert_eq!(route.preferred(), Some("b:2"));
        route.set_members(&members(&[(4, "d:4"), (5, "e:5")]));
        assert_eq!(
            (route.preferred(), route.all(NOW)),
            (None, vec!["d:4", "e:5"])
        );
        // Should all of them be gone, the first ones may be back.
        route.start_over();
        assert_eq!(route.all(NOW), ["d:4", "e:5", "a:1", "b:2", "c:3"]);
    }

    #[test]
    fn another_name_of_a_member_stays_until_the_member_goes() {
        let mut route = Route::new(["forwarded:9".to_owned(), "old:8".to_owned()]);
        route.identify("forwarded:9", NodeId(2));
        route.works("forwarded:9");
        route.set_members(&members(&[(1, "a:1"), (2, "b:2")]));
        assert_eq!(route.all(NOW), ["forwarded:9", "a:1", "b:2"]);
        assert_eq!(route.preferred(), Some("forwarded:9"));
        route.set_members(&members(&[(1, "a:1"), (3, "c:3")]));
        assert_eq!(
            (route.preferred(), route.all(NOW)),
            (None, vec!["a:1", "c:3"])
        );
    }

    #[test]
    fn suspicion_survives_a_change_of_members() {
        let mut route = route();
        route.fails("a:1", NOW);
        route.set_members(&members(&[(1, "a:1"), (2, "b:2"), (9, "x:9")]));
        assert_eq!(route.all(NOW), ["b:2", "x:9", "a:1"]);
    }

    #[test]
    fn hints_cannot_fill_the_memory() {
        let mut route = route();
        for n in 0..1000 {
            let leader = format!("x:{n}");
            route.works("a:1");
            let from = route.preferred().map(str::to_owned);
            route.redirected(&from.unwrap(), &to(&leader), NOW);
        }
        assert!(route.all(NOW).len() <= MAX_ENDPOINTS);
    }
}
