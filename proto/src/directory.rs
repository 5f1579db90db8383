//! Who is where: join tokens, members, sites, and which members of a site trade with each other.
//!
//! Tokens and memberships are event-sourced ([`DirectoryRecord`]); who is online and at which addresses is soft and told
//! again with each connection. Invariant: a name belongs to one member, and neighbourhood is symmetric.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::id::{Name, NodeId};
use crate::limits::{DEPUTIES_MAX, FULL_MESH_NODES_MAX, LABELS_MAX, NEIGHBOUR_RINGS, NODES_MAX};
use crate::time::WallTime;
use crate::wire::{Hello, Neighbour, Roster};

/// A join token as the coordinator keeps it: never the secret, only its hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its number.
    pub id: u64,
    /// BLAKE3 of the secret.
    pub secret_hash: [u8; 32],
    /// The site that nodes join with it.
    pub site: Name,
    /// Values of the label `role` that they get.
    pub roles: Vec<Name>,
    /// Until when.
    pub expires: WallTime,
    /// Where nodes of this token reach the coordinator's bulk mesh, if not at its own addresses.
    pub coordinator_bulk: Vec<String>,
}

/// A change that survives a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DirectoryRecord {
    /// A token was made.
    TokenCreated(Token),
    /// A token is not to be used any more.
    TokenRevoked {
        /// Which.
        token: u64,
    },
    /// A node joined, or changed what it says of itself.
    Joined(Membership),
}

/// What a member is known by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Its key.
    pub node: NodeId,
    /// Its name.
    pub name: Name,
    /// Its site.
    pub site: Name,
    /// The token it joined with.
    pub token: u64,
    /// Label values from the token.
    pub roles: Vec<Name>,
    /// Labels that it gave itself.
    pub labels: Vec<(Name, String)>,
    /// Where it reaches the coordinator's bulk mesh, if not at its own addresses.
    pub coordinator_bulk: Vec<String>,
}

/// A member with what is known of it while it is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// What it is known by.
    pub membership: Membership,
    /// Its program's version, its addresses on the control and the bulk mesh; `None` while it is not connected.
    pub online: Option<Presence>,
}

/// What is known of a connected member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// The program's version.
    pub version: String,
    /// Addresses of its control mesh.
    pub control: Vec<String>,
    /// Addresses of its bulk mesh.
    pub bulk: Vec<String>,
}

impl Membership {
    /// Every label, as selectors see them: the token's roles, then the node's own.
    pub fn all_labels(&self) -> Vec<(String, String)> {
        let roles = self.roles.iter().map(|role| ("role".to_owned(), role.to_string()));
        roles.chain(self.labels.iter().map(|(key, value)| (key.to_string(), value.clone()))).collect()
    }
}

/// Why a node may not join.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Not a member, and it brought no token.
    #[error("this node is not a member: start it with --join and a string from `shoal token create`")]
    NotInvited,
    /// Not a token of this coordinator, a wrong secret, or a revoked token.
    #[error("the join string is not one of this coordinator's, or was revoked: make one with `shoal token create`")]
    UnknownToken,
    /// The token was good once.
    #[error("the join string has expired: make one with `shoal token create`")]
    Expired,
    /// Another member has the name.
    #[error("the name `{0}` belongs to another node: start this one with --name and another name")]
    NameTaken(Name),
    /// The node says another site than its token.
    #[error("this node says that it is in site `{says}`, but its join string is for site `{token}`")]
    OtherSite {
        /// What the node says.
        says: Name,
        /// What the token says.
        token: Name,
    },
    /// A limit.
    #[error("{what}: at most {max} are allowed")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        max: usize,
    },
}

/// Tokens, members and sites of one coordinator.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    tokens: BTreeMap<u64, Token>,
    members: BTreeMap<NodeId, Member>,
    roster_number: u64,
}

impl Directory {
    /// Whether `node` may be a member, and what is to be recorded if it may (nothing for a member that says nothing new).
    ///
    /// # Errors
    /// A [`Refusal`] to be told to the node.
    pub fn admit(&self, node: NodeId, hello: &Hello, now: WallTime) -> Result<Vec<DirectoryRecord>, Refusal> {
        let taken = self.members.values().any(|m| m.membership.name == hello.name && m.membership.node != node);
        if taken {
            return Err(Refusal::NameTaken(hello.name.clone()));
        }
        if hello.labels.len() > LABELS_MAX {
            return Err(Refusal::TooMany { what: "labels of one node", max: LABELS_MAX });
        }
        let known = self.members.get(&node).map(|member| &member.membership);
        let membership = match (self.invited(hello, now), known) {
            // A node that is a member needs no token; a fresh good one may move it to another site.
            (Ok(token), _) => Self::membership(node, hello, token),
            (Err(_), Some(known)) => {
                Membership { name: hello.name.clone(), labels: hello.labels.clone(), ..known.clone() }
            }
            (Err(refusal), None) => return Err(refusal),
        };
        if let Some(says) = hello.site.as_ref().filter(|says| **says != membership.site) {
            return Err(Refusal::OtherSite { says: says.clone(), token: membership.site });
        }
        if known.is_none() && self.members.len() >= NODES_MAX {
            return Err(Refusal::TooMany { what: "nodes of one coordinator", max: NODES_MAX });
        }
        let news = known != Some(&membership);
        Ok(news.then_some(DirectoryRecord::Joined(membership)).into_iter().collect())
    }

    fn invited(&self, hello: &Hello, now: WallTime) -> Result<&Token, Refusal> {
        let proof = hello.join.as_ref().ok_or(Refusal::NotInvited)?;
        let token = self.tokens.get(&proof.token).ok_or(Refusal::UnknownToken)?;
        // `blake3::Hash` compares in constant time.
        if blake3::hash(&proof.secret) != blake3::Hash::from_bytes(token.secret_hash) {
            return Err(Refusal::UnknownToken);
        }
        if token.expires < now { Err(Refusal::Expired) } else { Ok(token) }
    }

    fn membership(node: NodeId, hello: &Hello, token: &Token) -> Membership {
        Membership {
            node,
            name: hello.name.clone(),
            site: token.site.clone(),
            token: token.id,
            roles: token.roles.clone(),
            labels: hello.labels.clone(),
            coordinator_bulk: token.coordinator_bulk.clone(),
        }
    }

    /// Makes a recorded change.
    pub fn apply(&mut self, record: &DirectoryRecord) {
        match record {
            DirectoryRecord::TokenCreated(token) => {
                self.tokens.insert(token.id, token.clone());
            }
            DirectoryRecord::TokenRevoked { token } => {
                self.tokens.remove(token);
            }
            DirectoryRecord::Joined(membership) => {
                let online = self.members.remove(&membership.node).and_then(|member| member.online);
                self.members.insert(membership.node, Member { membership: membership.clone(), online });
                self.roster_number += 1;
            }
        }
    }

    /// Notes that a member is connected. Nothing happens if it is none.
    pub fn set_online(&mut self, node: NodeId, hello: &Hello) {
        let Some(member) = self.members.get_mut(&node) else { return };
        let (control, bulk) = (hello.control.clone(), hello.bulk.clone());
        member.online = Some(Presence { version: hello.version.clone(), control, bulk });
        self.roster_number += 1;
    }

    /// Notes that a node is not connected.
    pub fn set_offline(&mut self, node: NodeId) {
        if self.members.get_mut(&node).is_some_and(|member| member.online.take().is_some()) {
            self.roster_number += 1;
        }
    }

    /// The member with this key.
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.get(&node)
    }

    /// The site of the member with this key.
    pub fn site_of(&self, node: NodeId) -> Option<&Name> {
        self.members.get(&node).map(|member| &member.membership.site)
    }

    /// Every member, by key.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// Every token that was not revoked, by number; expired ones included.
    pub fn tokens(&self) -> impl Iterator<Item = &Token> {
        self.tokens.values()
    }

    /// The number of the next token.
    pub fn next_token(&self) -> u64 {
        self.tokens.last_key_value().map_or(1, |(last, _)| last + 1)
    }

    /// Grows with each change of who is online where.
    pub fn roster_number(&self) -> u64 {
        self.roster_number
    }

    /// Connected members of a site that are neighbours of each other whatever its size, so that some of them may act for the
    /// coordinator while it is away. One that comes or goes changes one of them.
    pub fn deputies(&self, site: &Name) -> BTreeSet<NodeId> {
        ordered(&DEPUTY_KEY, self.online(site)).into_iter().take(DEPUTIES_MAX).collect()
    }

    fn online(&self, site: &Name) -> impl Iterator<Item = NodeId> {
        let of_site = self.members.values().filter(move |m| m.membership.site == *site && m.online.is_some());
        of_site.map(|member| member.membership.node)
    }

    /// What each connected member of a site is to know of it; `own_bulk` is where the coordinator's bulk mesh is, unless a
    /// member's token said otherwise.
    pub fn rosters(&self, site: &Name, own_bulk: &[String]) -> BTreeMap<NodeId, Roster> {
        let online: BTreeSet<NodeId> = self.online(site).collect();
        let mut graph = neighbourhoods(&online);
        // In a small site everybody is everybody's neighbour anyway.
        let deputies = if online.len() > FULL_MESH_NODES_MAX { self.deputies(site) } else { BTreeSet::new() };
        for deputy in &deputies {
            let others = deputies.iter().filter(|other| *other != deputy);
            graph.entry(*deputy).or_default().extend(others);
        }
        graph.into_iter().filter_map(|(node, near)| Some((node, self.roster(node, near, own_bulk)?))).collect()
    }

    fn roster(&self, node: NodeId, near: BTreeSet<NodeId>, own_bulk: &[String]) -> Option<Roster> {
        let membership = &self.members.get(&node)?.membership;
        let bulk = if membership.coordinator_bulk.is_empty() { own_bulk } else { &membership.coordinator_bulk };
        let neighbours = near.into_iter().filter_map(|id| {
            let presence = self.members.get(&id)?.online.as_ref()?;
            Some(Neighbour { node: id, control: presence.control.clone(), bulk: presence.bulk.clone() })
        });
        let neighbours = neighbours.collect();
        Some(Roster { number: self.roster_number, coordinator_bulk: bulk.to_vec(), neighbours })
    }
}

/// How the deputies of a site are chosen: by this and their keys.
const DEPUTY_KEY: [u8; 32] = [0xde; 32];

/// Where a node stands in the order that `key` gives.
fn place(key: &[u8; 32], node: NodeId) -> ([u8; 32], NodeId) {
    (*blake3::keyed_hash(key, &node.0).as_bytes(), node)
}

/// The nodes in the order that `key` gives.
fn ordered(key: &[u8; 32], nodes: impl Iterator<Item = NodeId>) -> Vec<NodeId> {
    let mut places: Vec<_> = nodes.map(|node| place(key, node)).collect();
    places.sort_unstable();
    places.into_iter().map(|(_, node)| node).collect()
}

/// Whom each member of `site` trades with: all others in a small site, otherwise those next to it in [`NEIGHBOUR_RINGS`]
/// rings, each ordered by another hash of the keys.
///
/// A union of random Hamiltonian cycles is connected, near-regular and an expander with high probability (Law and Siu,
/// "Distributed construction of random expander networks", 2003), and a member that comes or goes changes two edges a ring.
pub fn neighbourhoods(site: &BTreeSet<NodeId>) -> BTreeMap<NodeId, BTreeSet<NodeId>> {
    if site.len() <= FULL_MESH_NODES_MAX {
        let others = |node: &NodeId| site.iter().copied().filter(|other| other != node).collect();
        return site.iter().map(|node| (*node, others(node))).collect();
    }
    let mut found: BTreeMap<_, BTreeSet<_>> = site.iter().map(|node| (*node, BTreeSet::new())).collect();
    for ring in 0..NEIGHBOUR_RINGS {
        let order = ordered(&[ring; 32], site.iter().copied());
        for (one, other) in order.iter().zip(order.iter().cycle().skip(1)) {
            found.entry(*one).or_default().insert(*other);
            found.entry(*other).or_default().insert(*one);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::JoinProof;

    fn node(number: u8) -> NodeId {
        NodeId([number; 32])
    }

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn hello(text: &str, secret: u8) -> Hello {
        Hello {
            version: "1".into(),
            join: Some(JoinProof { token: 1, secret: [secret; 32] }),
            name: name(text),
            site: None,
            labels: vec![],
            control: vec![format!("/{text}")],
            bulk: vec![],
        }
    }

    fn directory() -> Directory {
        let mut directory = Directory::default();
        directory.apply(&DirectoryRecord::TokenCreated(Token {
            id: 1,
            secret_hash: *blake3::hash(&[7; 32]).as_bytes(),
            site: name("syd"),
            roles: vec![name("web")],
            expires: WallTime(1000),
            coordinator_bulk: vec![],
        }));
        directory
    }

    fn join(directory: &mut Directory, id: NodeId, hello: &Hello) {
        for record in directory.admit(id, hello, WallTime(500)).unwrap() {
            directory.apply(&record);
        }
        directory.set_online(id, hello);
    }

    #[test]
    fn only_the_invited_join_and_members_stay() {
        let mut directory = directory();
        let good = hello("a", 7);
        let admit = |hello: &Hello, at| directory.admit(node(1), hello, WallTime(at));
        assert_eq!(admit(&hello("a", 8), 500), Err(Refusal::UnknownToken));
        assert_eq!(admit(&good, 1001), Err(Refusal::Expired));
        assert_eq!(admit(&Hello { join: None, ..good.clone() }, 500), Err(Refusal::NotInvited));
        let elsewhere = Hello { site: Some(name("osl")), ..good.clone() };
        assert_eq!(admit(&elsewhere, 500), Err(Refusal::OtherSite { says: name("osl"), token: name("syd") }));
        join(&mut directory, node(1), &good);
        let later = Hello { join: None, ..good.clone() };
        assert_eq!(directory.admit(node(1), &later, WallTime(9999)), Ok(vec![]), "a member needs no token");
        assert_eq!(directory.admit(node(2), &good, WallTime(500)), Err(Refusal::NameTaken(name("a"))));
        directory.apply(&DirectoryRecord::TokenRevoked { token: 1 });
        assert_eq!(directory.admit(node(2), &hello("b", 7), WallTime(500)), Err(Refusal::UnknownToken));
    }

    #[test]
    fn the_roster_names_who_is_online() {
        let mut directory = directory();
        join(&mut directory, node(1), &hello("a", 7));
        join(&mut directory, node(2), &hello("b", 7));
        let roster = |directory: &Directory, bulk: &[String]| directory.rosters(&name("syd"), bulk).remove(&node(1));
        let first = roster(&directory, &["/bulk".into()]).unwrap();
        assert_eq!(first.neighbours, [Neighbour { node: node(2), control: vec!["/b".into()], bulk: vec![] }]);
        assert_eq!(first.coordinator_bulk, ["/bulk"]);
        directory.set_offline(node(2));
        let later = roster(&directory, &[]).unwrap();
        assert_eq!((later.neighbours, later.number > first.number), (vec![], true));
    }

    #[test]
    fn large_sites_get_a_symmetric_connected_graph_of_bounded_degree() {
        for count in [2u8, 24, 25, 60, 200] {
            let site: BTreeSet<NodeId> = (0..count).map(node).collect();
            let graph = neighbourhoods(&site);
            let mut reached = BTreeSet::from([node(0)]);
            let mut next = vec![node(0)];
            while let Some(id) = next.pop() {
                assert!(graph[&id].iter().all(|other| graph[other].contains(&id)), "{count}: not symmetric");
                assert!(graph[&id].len() <= if count <= 24 { 23 } else { 16 } && !graph[&id].contains(&id));
                next.extend(graph[&id].iter().filter(|other| reached.insert(**other)));
            }
            assert_eq!(reached, site, "{count}: not connected");
        }
    }
}
