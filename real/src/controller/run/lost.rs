//! Agents that are lost, to the controller or to each other.

use medes_engine::event::Input;
use medes_engine::id::NodeId;
use medes_engine::record::{RequestRecord, StartParts};
use medes_engine::units::Instant;

use super::{Controller, Directory, Node};

impl<D: Directory, S: FnMut(&RequestRecord, &StartParts)> Controller<'_, D, S> {
    /// An agent cannot read the base pages of another any more, or can again.
    pub(super) fn peer(&mut self, at: Instant, reader: NodeId, owner: NodeId, lost: &str) {
        if lost.is_empty() {
            self.unread.remove(&(reader, owner));
            self.note(format!("agent {reader} can read from agent {owner} again at {:.1} s", at.as_secs_f64()));
            return;
        }
        self.note(format!("agent {reader} lost agent {owner} at {:.1} s: {lost}", at.as_secs_f64()));
        self.unread.insert((reader, owner));
        // Whether its sandboxes are gone as well, its own link knows, and hurries now.
        if let Some(suspected) = self.suspected.get(owner.index()) {
            suspected.notify_one();
        }
        self.tell(at, Input::BasesLost { reader, owner });
    }

    pub(super) fn lose(&mut self, at: Instant, node: NodeId) {
        self.unread.retain(|(reader, owner)| *reader != node && *owner != node);
        self.orders.forget_node(node);
        for base in self.images.node_gone(node) {
            self.directory.refer(base, -1);
        }
        self.directory.node_lost(node);
        self.nodes[node.index()] = Node::default();
        self.memory_changes(at);
        self.tell(at, Input::NodeLost { node });
    }

    /// An agent reduced a sandbox; perhaps against pages that it lost before it was done.
    pub(super) fn packed_too_late(&mut self, at: Instant, reader: NodeId) {
        let lost: Vec<NodeId> = self.unread.iter().filter(|u| u.0 == reader).map(|u| u.1).collect();
        for owner in lost {
            self.tell(at, Input::BasesLost { reader, owner });
        }
    }
}
