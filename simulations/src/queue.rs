//! Events in the order of their time; those of the same time in the order in which they were made.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use shoal_proto::time::Time;

/// When an event happens, and how many were made before it.
type Turn = (Time, u64);

/// What is going to happen.
#[derive(Debug)]
pub(crate) struct Queue<E> {
    /// Turns, and where their events are: what moves when one comes or goes is small.
    turns: BinaryHeap<Reverse<(Turn, u32)>>,
    events: Vec<Option<E>>,
    /// Where there is no event.
    free: Vec<u32>,
    /// Events that were made in the order in which they happen.
    in_order: VecDeque<(Turn, E)>,
    made: u64,
}

impl<E> Queue<E> {
    pub(crate) fn new() -> Self {
        Self { turns: BinaryHeap::new(), events: Vec::new(), free: Vec::new(), in_order: VecDeque::new(), made: 0 }
    }

    pub(crate) fn push(&mut self, at: Time, event: E) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            u32::try_from(self.events.len() - 1).expect("events have memory")
        });
        self.events[place as usize] = Some(event);
        self.turns.push(Reverse(((at, self.made), place)));
        self.made += 1;
    }

    /// As [`Queue::push`], and cheaper if no event that was put in so before happens later: for what is always made with the
    /// same delay.
    pub(crate) fn push_in_order(&mut self, at: Time, event: E) {
        if self.in_order.back().is_some_and(|((last, _), _)| *last > at) {
            return self.push(at, event);
        }
        self.in_order.push_back(((at, self.made), event));
        self.made += 1;
    }

    /// When the first of them happens.
    pub(crate) fn next(&self) -> Option<Time> {
        self.firsts().into_iter().flatten().min().map(|(at, _)| at)
    }

    pub(crate) fn pop(&mut self) -> Option<(Time, E)> {
        let [one, in_order] = self.firsts();
        let ordered_first = in_order.is_some_and(|turn| one.is_none_or(|one| turn < one));
        if ordered_first {
            return self.in_order.pop_front().map(|((at, _), event)| (at, event));
        }
        let Reverse(((at, _), place)) = self.turns.pop()?;
        self.free.push(place);
        self.events[place as usize].take().map(|event| (at, event))
    }

    /// The first of each kind.
    fn firsts(&self) -> [Option<Turn>; 2] {
        [self.turns.peek().map(|Reverse((turn, _))| *turn), self.in_order.front().map(|(turn, _)| *turn)]
    }
}

#[cfg(test)]
mod tests {
    use shoal_proto::rng::Rng;

    use super::*;

    #[test]
    fn events_happen_by_their_times_however_they_were_put_in() {
        let (mut queue, mut expected) = (Queue::new(), Vec::new());
        let mut rng = Rng::new(1);
        for made in 0..1000 {
            let at = Time::from_millis(made / 10 + rng.below(3));
            if rng.below(2) == 0 {
                queue.push(at, made)
            } else {
                queue.push_in_order(at, made)
            }
            expected.push((at, made));
        }
        expected.sort_unstable();
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, expected);
    }

    #[test]
    fn events_of_one_time_keep_their_order() {
        let mut queue = Queue::new();
        for (at, event) in [(2, 'c'), (1, 'a'), (2, 'd'), (1, 'b')] {
            queue.push(Time::from_millis(at), event);
        }
        let order: String = std::iter::from_fn(|| queue.pop()).map(|(_, event)| event).collect();
        assert_eq!(order, "abcd");
    }
}
