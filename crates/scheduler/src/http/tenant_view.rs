//! What a tenant sees: nothing that names access nodes, MediaAgents or the service account, not even inside the
//! sentences of errors and notes.

use snapferry_api::hypervisor::{Hypervisor, Role};
use snapferry_api::job::{Job, Note};
use snapferry_api::page::PageQuery;
use snapferry_api::recovery_point::RecoveryPointSummary;
use snapferry_types::{AccessNodeId, MediaAgentId};

use super::Api;
use super::auth::Caller;
use super::problem::Refusal;

/// Machines whose names are looked for in sentences; ids are found however many there are.
const MAX_NAMES: u32 = 1_000;
const HIDDEN: &str = "(service)";

/// Hides, or lets everything through for operators and viewers.
pub(super) struct View {
    hide: bool,
    words: Vec<String>,
}

impl View {
    pub(super) async fn of(api: &Api, caller: &Caller) -> Result<Self, Refusal> {
        let Some(tenant) = caller.only() else { return Ok(Self { hide: false, words: Vec::new() }) };
        let all = PageQuery::default();
        let mut words = Vec::new();
        for agent in api.store.media_agents(&all, MAX_NAMES, 0).await?.items {
            words.push(agent.endpoint.trim_end_matches('/').to_owned());
            words
                .extend(agent.endpoint.split("://").nth(1).map(|host| host.trim_end_matches('/').to_owned()));
            words.push(agent.name);
        }
        for node in api.store.access_nodes(&all, MAX_NAMES, 0).await?.items {
            words.push(node.name);
        }
        if let Role::Tenant { use_admin_account_resources: Some(admin), .. } =
            api.store.hypervisor(tenant).await?.role
        {
            let admin = api.store.hypervisor(admin).await?;
            words.push(admin.account.to_string());
            words.push(admin.name);
        }
        // Short names would hit ordinary words; longer ones first, for one may begin another.
        words.retain(|word| word.len() >= 4);
        words.sort_by_key(|word| std::cmp::Reverse(word.len()));
        Ok(Self { hide: true, words })
    }

    pub(super) fn hypervisor(&self, mut hypervisor: Hypervisor) -> Hypervisor {
        if self.hide
            && let Role::Tenant { use_admin_account_resources, .. } = &mut hypervisor.role
        {
            *use_admin_account_resources = None;
        }
        hypervisor
    }

    pub(super) fn job(&self, mut job: Job) -> Job {
        if !self.hide {
            return job;
        }
        for task in &mut job.tasks {
            task.access_node = None;
            task.media_agent = None;
            if let Some(error) = &mut task.error {
                error.message = self.sentence(&error.message);
            }
            for note in &mut task.notes {
                note.text = self.sentence(&note.text);
            }
            task.waits_for = task.waits_for.as_ref().map(|text| self.sentence(text));
            for attempt in &mut task.history {
                attempt.access_node = None;
                attempt.log_excerpt.clear();
                if let Some(error) = &mut attempt.error {
                    error.message = self.sentence(&error.message);
                }
            }
        }
        job.error = Job::error_of(&job.tasks);
        job
    }

    pub(super) fn note(&self, mut note: Note) -> Note {
        if self.hide {
            note.text = self.sentence(&note.text);
        }
        note
    }

    pub(super) fn recovery_point(&self, mut point: RecoveryPointSummary) -> RecoveryPointSummary {
        if self.hide {
            point.media_agent = None;
        }
        point
    }

    fn sentence(&self, text: &str) -> String {
        let mut text = without_ids(text);
        for word in &self.words {
            text = text.replace(word, HIDDEN);
        }
        text
    }
}

/// The text without ids of access nodes and MediaAgents.
fn without_ids(text: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let n_word = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(n_word);
        if word.parse::<MediaAgentId>().is_ok() || word.parse::<AccessNodeId>().is_ok() {
            out.push_str(HIDDEN);
        } else {
            out.push_str(word);
        }
        let mut others = after.chars();
        if let Some(other) = others.next() {
            out.push(other);
        }
        rest = others.as_str();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_names_no_machine() {
        let agent = MediaAgentId::generate();
        let view =
            View { hide: true, words: vec!["http://10.0.0.7:7443".to_owned(), "node-eu-1".to_owned()] };
        let text =
            view.sentence(&format!("MediaAgent {agent} (http://10.0.0.7:7443) hung up on node-eu-1: é"));
        assert_eq!(text, "MediaAgent (service) ((service)) hung up on (service): é");
    }
}
