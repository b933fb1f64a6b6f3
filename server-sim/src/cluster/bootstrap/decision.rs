//! What a node that starts does next. No clock, no store, no network: everything it rests on is in [`View`].

/// What this node is among the seeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It is the only seed, or there are none: it needs nobody.
    Alone,
    /// One of several seeds, which found the cluster together.
    Seed,
    /// No seed: it comes to a cluster that is there.
    Joiner,
}

/// All that counts at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    pub(super) role: Role,
    /// Whether to found without being told, once all seeds are up.
    pub(super) auto_init: bool,
    /// Whether the metadata say that the cluster was founded.
    pub(super) founded: bool,
    /// Whether every seed is up.
    pub(super) seeds_up: bool,
    /// Whether another node is up.
    pub(super) company: bool,
    /// Whether a node that holds a lease is unknown to this one.
    pub(super) strangers: bool,
    /// Whether it has waited long enough for every lease to lapse that nobody renews.
    pub(super) patient: bool,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Write that the cluster is founded.
    Found,
    /// Wait until something changes.
    Await(Awaited),
    /// Serve.
    Serve,
}

/// What is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaited {
    /// Somebody who says `hstream init`.
    Init,
    /// The other seeds, so that the cluster can be founded.
    Seeds,
    /// A live node to join.
    Company,
    /// Nodes that hold leases: whoever does not know them would take what they own for ownerless.
    Peers,
}

pub(super) fn decide(view: &View) -> Next {
    if view.role == Role::Joiner && !view.company {
        return Next::Await(Awaited::Company);
    }
    if !view.founded {
        return match view.role {
            Role::Alone => Next::Found,
            Role::Seed if view.auto_init && view.seeds_up => Next::Found,
            Role::Seed if view.auto_init => Next::Await(Awaited::Seeds),
            Role::Seed | Role::Joiner => Next::Await(Awaited::Init),
        };
    }
    if view.strangers && !view.patient { Next::Await(Awaited::Peers) } else { Next::Serve }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIEW: View = View {
        role: Role::Seed,
        auto_init: false,
        founded: false,
        seeds_up: false,
        company: false,
        strangers: false,
        patient: false,
    };

    #[test]
    fn a_single_seed_founds_its_cluster_at_once() {
        let alone = View { role: Role::Alone, ..VIEW };
        assert_eq!(decide(&alone), Next::Found);
        assert_eq!(decide(&View { founded: true, ..alone }), Next::Serve);
    }

    #[test]
    fn several_seeds_wait_for_init_however_many_are_up() {
        for seeds_up in [false, true] {
            assert_eq!(decide(&View { seeds_up, company: seeds_up, ..VIEW }), Next::Await(Awaited::Init));
        }
        assert_eq!(decide(&View { founded: true, ..VIEW }), Next::Serve);
    }

    #[test]
    fn auto_init_founds_as_soon_as_all_seeds_are_up_and_not_before() {
        let auto = View { auto_init: true, company: true, ..VIEW };
        assert_eq!(decide(&auto), Next::Await(Awaited::Seeds));
        assert_eq!(decide(&View { seeds_up: true, ..auto }), Next::Found);
    }

    #[test]
    fn a_joiner_never_founds_and_needs_a_live_node_every_time() {
        let joiner = View { role: Role::Joiner, auto_init: true, seeds_up: true, ..VIEW };
        assert_eq!(decide(&joiner), Next::Await(Awaited::Company));
        assert_eq!(decide(&View { company: true, ..joiner }), Next::Await(Awaited::Init));
        assert_eq!(decide(&View { founded: true, patient: true, ..joiner }), Next::Await(Awaited::Company));
        assert_eq!(decide(&View { founded: true, company: true, ..joiner }), Next::Serve);
    }

    #[test]
    fn a_seed_that_comes_back_waits_for_those_who_hold_leases_but_not_for_ever() {
        for role in [Role::Alone, Role::Seed] {
            let back = View { role, founded: true, strangers: true, ..VIEW };
            assert_eq!(decide(&back), Next::Await(Awaited::Peers));
            assert_eq!(decide(&View { strangers: false, ..back }), Next::Serve);
            assert_eq!(decide(&View { patient: true, ..back }), Next::Serve);
        }
    }
}
