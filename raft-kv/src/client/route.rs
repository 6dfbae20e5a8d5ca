//! Which endpoint to ask: the last that worked, the leader it named, or any. Pure.

use crate::protocol::Redirect;

/// Most endpoints a client remembers: those it was given, and leaders it was told of.
pub const MAX_ENDPOINTS: usize = 64;

/// The endpoints of a cluster, and which of them is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    endpoints: Vec<String>,
    /// The endpoint to ask, while there is no reason to ask another.
    preferred: Option<usize>,
    /// Where a search among all of them begins, so that not every search asks the same first.
    first: usize,
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
        self.preferred.map(|index| &self.endpoints[index][..])
    }

    /// All endpoints, the one to try first at the front.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        let (before, from) = self.endpoints.split_at(self.first);
        from.iter().chain(before).map(String::as_str)
    }

    /// An endpoint works.
    pub fn works(&mut self, address: &str) {
        if self.preferred.is_none() {
            self.preferred = self.position_of(address);
        }
    }

    /// An endpoint does not work: it cannot be reached, or knows no leader.
    pub fn fails(&mut self, address: &str) {
        if self.preferred() == Some(address) {
            self.preferred = None;
        }
        if self
            .endpoints
            .get(self.first)
            .is_some_and(|first| first == address)
        {
            self.first = (self.first + 1) % self.endpoints.len();
        }
    }

    /// An endpoint says that it does not lead. What an endpoint says that is not the preferred
    /// one any more is old news.
    pub fn redirected(&mut self, from: &str, redirect: &Redirect) {
        if self.preferred().is_some_and(|preferred| preferred != from) {
            return;
        }
        match &redirect.address {
            Some(address) if address != from => self.preferred = self.position_of(address),
            Some(_) | None => self.fails(from),
        }
    }

    /// The place of an endpoint, which is added if it is new and there is room.
    fn position_of(&mut self, address: &str) -> Option<usize> {
        let known = self
            .endpoints
            .iter()
            .position(|endpoint| endpoint == address);
        known.or_else(|| {
            if self.endpoints.len() >= MAX_ENDPOINTS {
                return None;
            }
            self.endpoints.push(address.to_owned());
            Some(self.endpoints.len() - 1)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        route.redirected("b:2", &to("d:4"));
        assert_eq!(route.preferred(), Some("d:4"));
        assert_eq!(
            route.all().collect::<Vec<_>>(),
            ["a:1", "b:2", "c:3", "d:4"]
        );
    }

    #[test]
    fn old_news_does_not_lead_away_from_the_leader() {
        let mut route = route();
        route.works("b:2");
        route.redirected("b:2", &to("c:3"));
        // Requests that were under way to b come back one after the other.
        route.redirected("b:2", &to("a:1"));
        route.redirected("b:2", &Redirect::default());
        route.fails("b:2");
        assert_eq!(route.preferred(), Some("c:3"));
        route.works("a:1");
        assert_eq!(route.preferred(), Some("c:3"));
    }

    #[test]
    fn without_a_hint_another_endpoint_is_asked_first() {
        let mut route = route();
        route.works("a:1");
        route.redirected("a:1", &Redirect::default());
        assert_eq!(route.preferred(), None);
        assert_eq!(route.all().next(), Some("b:2"));
        // A node that names itself as the leader it is not makes no loop.
        route.works("b:2");
        route.redirected("b:2", &to("b:2"));
        assert_eq!((route.preferred(), route.all().next()), (None, Some("c:3")));
    }

    #[test]
    fn hints_cannot_fill_the_memory() {
        let mut route = route();
        for n in 0..1000 {
            let leader = format!("x:{n}");
            route.works("a:1");
            let from = route.preferred().map(str::to_owned);
            route.redirected(&from.unwrap(), &to(&leader));
        }
        assert!(route.all().count() <= MAX_ENDPOINTS);
    }
}
