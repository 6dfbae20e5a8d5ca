//! Which endpoint to ask: the last that worked, the leader it named, or any. Pure: time is an
//! argument, counted from any fixed moment.

use std::time::Duration;

use crate::protocol::Redirect;

/// Most endpoints a client remembers: those it was given, and leaders it was told of.
pub const MAX_ENDPOINTS: usize = 64;
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
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Endpoint {
    address: String,
    /// It failed, and is avoided until then.
    suspect_until: Duration,
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
        };
        for endpoint in endpoints {
            route.position_of(&endpoint);
        }
        route
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
