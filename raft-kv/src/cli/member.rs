//! `member`: who belongs to the cluster, and changes of that.

use raft_proto::{NodeId, Promotion};
use serde_json::{Value, json};

use super::args::{
    Common, Format, MemberAddArgs, MemberArgs, MemberCommand, MemberListArgs, MemberRemoveArgs,
    PromoteWhen,
};
use super::data::{CLOSE_BOUND, client, client_with};
use super::error::CliError;
use super::output::{print_bytes, print_json, print_line, table};
use crate::client::{Client, ClientError, Discovery};
use crate::protocol::{
    MemberChange, MemberInfo, MemberList, MemberRole, NodeStatus, RemovalSafety,
};

pub(super) async fn run(common: &Common, args: &MemberArgs) -> Result<(), CliError> {
    match &args.command {
        MemberCommand::List(MemberListArgs { stale: false }) => list(common).await,
        MemberCommand::List(MemberListArgs { stale: true }) => list_stale(common).await,
        MemberCommand::Add(args) => add(common, args).await,
        MemberCommand::Promote { id } => {
            let id = node_id(*id)?;
            let members = change(common, &MemberChange::Promote { id }).await?;
            tell(common, &members, &format!("node {} is a voter now", id.0))
        }
        MemberCommand::Remove(args) => remove(common, args).await,
    }
}

fn node_id(id: u64) -> Result<NodeId, CliError> {
    match id {
        0 => Err(CliError::Usage("node ids are numbers from 1 on".to_owned())),
        id => Ok(NodeId(id)),
    }
}

async fn change(common: &Common, change: &MemberChange) -> Result<MemberList, CliError> {
    let client = client(common, 1)?;
    let outcome = client.change_members(change).await;
    client.close(CLOSE_BOUND).await;
    Ok(outcome?)
}

fn tell(common: &Common, members: &MemberList, words: &str) -> Result<(), CliError> {
    match common.write_out {
        Format::Simple => print_line(words),
        Format::Json => print_json(&list_json(members, &[])),
    }
}

async fn list(common: &Common) -> Result<(), CliError> {
    let client = client(common, 1)?;
    let outcome = list_and_progress(&client).await;
    client.close(CLOSE_BOUND).await;
    let (members, leader) = outcome?;
    let progress = progress(&members, leader.as_ref());
    match common.write_out {
        Format::Simple => print_bytes(list_table(&members, &progress).as_bytes()),
        Format::Json => print_json(&list_json(&members, &progress)),
    }
}

/// Prints what the endpoint that knows the newest members says, and which endpoints say otherwise.
async fn list_stale(common: &Common) -> Result<(), CliError> {
    // Those that were given are asked, and no others.
    let client = client_with(common, 1, Discovery::Given)?;
    let all = client.members_of_each().await;
    client.close(CLOSE_BOUND).await;
    let told = all.iter().filter_map(|(_, list)| list.as_ref().ok());
    let newest = told.max_by_key(|list| (list.term, list.commit_index));
    let problems = all.iter().filter_map(|(address, list)| match list {
        Ok(_) => None,
        Err(error) => Some(format!("{address}: {error}")),
    });
    let problems: Vec<String> = problems.collect();
    let Some(newest) = newest else {
        let problems = problems.join("; ");
        return Err(CliError::Failed(format!(
            "no endpoint answered: {problems}"
        )));
    };
    if common.write_out == Format::Json {
        let mut object = list_json(newest, &[]);
        object["from"] = newest.from.0.into();
        object["commit_index"] = newest.commit_index.into();
        return print_json(&object);
    }
    print_bytes(list_table(newest, &vec![None; newest.members.len()]).as_bytes())?;
    print_line(&stale_words(newest, &all))?;
    problems.iter().try_for_each(|problem| print_line(problem))
}

/// Whose list it is, how old it may be, and who tells another one.
fn stale_words(newest: &MemberList, all: &[(String, Result<MemberList, ClientError>)]) -> String {
    let mut words = format!(
        "as node {} knows it in term {} up to entry {}; it may be old",
        newest.from.0, newest.term, newest.commit_index
    );
    for list in all.iter().filter_map(|(_, list)| list.as_ref().ok()) {
        if list.cluster != newest.cluster {
            let (from, cluster) = (list.from.0, &list.cluster);
            words += &format!("\nnode {from} belongs to another cluster, {cluster}");
        } else if list.members != newest.members {
            let ids = list.members.iter().map(|member| member.id.0.to_string());
            let ids: Vec<String> = ids.collect();
            words += &format!(
                "\nnode {} tells otherwise, in term {} up to entry {}: {}",
                list.from.0,
                list.term,
                list.commit_index,
                ids.join(", ")
            );
        }
    }
    words
}

/// The members, and the leader's view of how far each of them is.
async fn list_and_progress(client: &Client) -> Result<(MemberList, Option<NodeStatus>), CliError> {
    let leader = client.prefer_leader().await?;
    let members = client.members().await?;
    Ok((
        members,
        Some(leader).filter(|leader| leader.leader == Some(leader.id)),
    ))
}

/// How many entries each member lacks, as far as the leader knows; in the order of the members.
fn progress(members: &MemberList, leader: Option<&NodeStatus>) -> Vec<Option<u64>> {
    let behind = |member: &MemberInfo| {
        let leader = leader?;
        if member.id == leader.id {
            return Some(0);
        }
        let seen = leader.peers.iter().find(|peer| peer.id == member.id)?;
        seen.match_index
            .map(|index| leader.last_index.saturating_sub(index))
    };
    members.members.iter().map(behind).collect()
}

async fn add(common: &Common, args: &MemberAddArgs) -> Result<(), CliError> {
    let add = MemberChange::Add {
        id: args.node.id,
        address: args.node.address.clone(),
        promotion: match args.promote {
            PromoteWhen::Auto => Promotion::Auto,
            PromoteWhen::Manual => Promotion::Manual,
        },
    };
    let members = change(common, &add).await?;
    let id = args.node.id.0;
    let next = match args.promote {
        PromoteWhen::Auto => "it votes as soon as it has caught up".to_owned(),
        PromoteWhen::Manual => {
            format!("once it has caught up, `raft-kv member promote {id}` lets it vote")
        }
    };
    let commands = commands_for(common, &args.node.address, id);
    match common.write_out {
        Format::Simple => print_line(&format!(
            "node {id} is a learner now; {next}.\n\
             If it has no certificate yet, make one where ca-key.pem is:\n  {}\n\
             Then start it, with a data directory that does not exist yet:\n  {}",
            commands[0], commands[1]
        )),
        Format::Json => {
            let mut object = list_json(&members, &[]);
            object["certificate_command"] = json!(commands[0]);
            object["server_command"] = json!(commands[1]);
            print_json(&object)
        }
    }
}

/// The commands that make the new node's certificate and start it.
fn commands_for(common: &Common, address: &str, id: u64) -> [String; 2] {
    let tls = match &common.tls_dir {
        Some(dir) => shell_word(&dir.display().to_string()),
        None => "tls".to_owned(),
    };
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "7001"));
    // A name may resolve differently on its own machine, so such a node listens everywhere.
    let listen = match address.parse::<std::net::SocketAddr>() {
        Ok(literal) => literal.to_string(),
        Err(_) => format!("0.0.0.0:{port}"),
    };
    let host = shell_word(host);
    [
        format!("raft-kv cert add --dir {tls} --node {id}={host}"),
        format!(
            "raft-kv server --id {id} --join --data-dir data{id} --listen {listen} --tls-dir {tls}"
        ),
    ]
}

/// Quotes a text for a shell if it needs that.
fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@%+=".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

async fn remove(common: &Common, args: &MemberRemoveArgs) -> Result<(), CliError> {
    let id = node_id(args.id)?;
    let remove = MemberChange::Remove {
        id,
        safety: match args.force {
            true => RemovalSafety::Force,
            false => RemovalSafety::KeepQuorum,
        },
    };
    let members = change(common, &remove).await?;
    let words = format!(
        "node {} is no member any more; stop it and delete its data directory",
        id.0
    );
    tell(common, &members, &words)
}

const fn role_name(role: MemberRole) -> &'static str {
    match role {
        MemberRole::Voter => "voter",
        MemberRole::Learner(_) => "learner",
        MemberRole::Leaving => "leaving",
    }
}

const fn promotion_name(role: MemberRole) -> Option<&'static str> {
    match role {
        MemberRole::Learner(Promotion::Auto) => Some("auto"),
        MemberRole::Learner(Promotion::Manual) => Some("manual"),
        MemberRole::Voter | MemberRole::Leaving => None,
    }
}

fn list_table(list: &MemberList, progress: &[Option<u64>]) -> String {
    let mut rows = vec![
        [
            "ID", "ADDRESS", "ROLE", "PROMOTE", "LEADS", "BEHIND", "JOINED",
        ]
        .map(str::to_owned),
    ];
    for (member, behind) in list.members.iter().zip(progress) {
        rows.push([
            member.id.0.to_string(),
            member.address.clone(),
            role_name(member.role).to_owned(),
            promotion_name(member.role).unwrap_or("-").to_owned(),
            yes_or_no(list.leader == Some(member.id)),
            behind.map_or("-".to_owned(), |entries| entries.to_string()),
            yes_or_no(member.incarnation.is_some()),
        ]);
    }
    table(&rows)
}

fn yes_or_no(is_so: bool) -> String {
    if is_so { "yes" } else { "no" }.to_owned()
}

fn list_json(list: &MemberList, progress: &[Option<u64>]) -> Value {
    let members = list.members.iter().enumerate().map(|(index, member)| {
        json!({
            "id": member.id.0,
            "address": member.address,
            "role": role_name(member.role),
            "promote": promotion_name(member.role),
            "joined": member.incarnation.is_some(),
            "behind": progress.get(index).copied().flatten(),
        })
    });
    json!({
        "cluster": list.cluster,
        "leader": list.leader.map(|leader| leader.0),
        "term": list.term,
        "members": members.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_needs_it() {
        assert_eq!(shell_word("/etc/tls-1"), "/etc/tls-1");
        assert_eq!(shell_word("my dir"), "'my dir'");
        assert_eq!(shell_word("it's"), "'it'\\''s'");
        assert_eq!(shell_word(""), "''");
    }

    #[test]
    fn the_list_shows_roles_and_progress() {
        let member = |id: u64, role| MemberInfo {
            id: NodeId(id),
            address: format!("h:{id}"),
            role,
            incarnation: (id == 1).then_some(raft_proto::Incarnation(7)),
        };
        let list = MemberList {
            cluster: "c".to_owned(),
            from: NodeId(1),
            leader: Some(NodeId(1)),
            term: 3,
            commit_index: 9,
            members: vec![
                member(1, MemberRole::Voter),
                member(4, MemberRole::Learner(Promotion::Manual)),
            ],
        };
        let table = list_table(&list, &[Some(0), Some(12)]);
        assert_eq!(
            table,
            "ID  ADDRESS  ROLE     PROMOTE  LEADS  BEHIND  JOINED\n\
             1   h:1      voter    -        yes    0       yes\n\
             4   h:4      learner  manual   no     12      no\n"
        );
        let json = list_json(&list, &[Some(0), None]);
        assert_eq!(json["members"][1]["promote"], "manual");
        assert_eq!(json["members"][1]["behind"], Value::Null);
    }
}
