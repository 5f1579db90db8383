//! When a control channel beats and when it is dead.
//!
//! The dialer beats where it sent or heard nothing for a while, and is answered. A channel that carried no frame for some
//! time, as those of a mesh at rest, beats [`CONTROL_UNUSED_BEATS_DIVISOR`] times less often and may be silent for that much
//! longer: a coordinator of a thousand nodes does little else then. With the next frame, either way, it is as before: the
//! dialer beats at once if it is due, and who does not answer from then on is found dead as soon as ever.
//!
//! Both sides tell by themselves what is unused. The side that waits does so after half the time, so that frames that take
//! long to arrive never have it expect a beat that the other side does not send.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use shoal_proto::limits::CONTROL_UNUSED_BEATS_DIVISOR;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::control::ControlConfig;

/// What one side knows of a channel; its reader and its writer share it. Times are milliseconds since it began.
pub(super) struct Pulse {
    config: ControlConfig,
    dialer: bool,
    began: Instant,
    heard: AtomicU64,
    sent: AtomicU64,
    beat: AtomicU64,
    /// When the last frame was carried, either way.
    used: AtomicU64,
    /// When it was last used after it was not.
    woken: AtomicU64,
    beat_wanted: Notify,
    reader_woken: Notify,
    writer_woken: Notify,
}

impl Pulse {
    /// Of a channel that opens, and counts as used; this side dialed it or not.
    pub(super) fn new(config: ControlConfig, dialer: bool) -> Self {
        Self {
            config,
            dialer,
            began: Instant::now(),
            heard: AtomicU64::default(),
            sent: AtomicU64::default(),
            beat: AtomicU64::default(),
            used: AtomicU64::default(),
            woken: AtomicU64::default(),
            beat_wanted: Notify::new(),
            reader_woken: Notify::new(),
            writer_woken: Notify::new(),
        }
    }

    /// Something arrived.
    pub(super) fn heard(&self) {
        self.heard.store(self.now(), Relaxed);
    }

    /// What arrives is a frame.
    pub(super) fn heard_frame(&self) {
        if self.use_now() {
            self.writer_woken.notify_one();
        }
    }

    /// What arrived is a heartbeat: the dialer's is answered.
    pub(super) fn heard_beat(&self) {
        if !self.dialer {
            self.beat_wanted.notify_one();
        }
    }

    /// Frames were sent.
    pub(super) fn sent_frames(&self) {
        self.sent.store(self.now(), Relaxed);
        if self.use_now() {
            self.reader_woken.notify_one();
        }
    }

    /// A heartbeat was sent.
    pub(super) fn sent_beat(&self) {
        let now = self.now();
        self.sent.store(now, Relaxed);
        self.beat.store(now, Relaxed);
    }

    /// Returns when a heartbeat is to be sent.
    pub(super) async fn until_beat(&self) {
        loop {
            let due = self.beat_due();
            if self.dialer && due <= Instant::now() {
                return;
            }
            tokio::select! {
                () = self.beat_wanted.notified() => return,
                () = sleep_until(due), if self.dialer => {}
                () = self.writer_woken.notified() => {}
            }
        }
    }

    /// Returns when nothing was heard for too long, and for how long.
    pub(super) async fn until_silent(&self) -> Duration {
        loop {
            let (due, silence_max) = self.silent_at();
            if due <= Instant::now() {
                return silence_max;
            }
            tokio::select! {
                () = sleep_until(due) => {}
                () = self.reader_woken.notified() => {}
            }
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Notes a frame; whether the channel was unused.
    fn use_now(&self) -> bool {
        let now = self.now();
        let wakes = self.slack(self.config.unused_after / 2) > 1;
        self.used.store(now, Relaxed);
        if wakes {
            self.woken.store(now, Relaxed);
        }
        wakes
    }

    /// How many times as long as usual to wait, if a channel is unused `after` its last frame.
    fn slack(&self, after: Duration) -> u32 {
        let unused = Duration::from_millis(self.now().saturating_sub(self.used.load(Relaxed)));
        if unused >= after { CONTROL_UNUSED_BEATS_DIVISOR } else { 1 }
    }

    fn at(&self, millis: u64) -> Instant {
        self.began + Duration::from_millis(millis)
    }

    fn beat_due(&self) -> Instant {
        let quiet = self.sent.load(Relaxed).min(self.heard.load(Relaxed)).max(self.beat.load(Relaxed));
        self.at(quiet) + self.config.heartbeat * self.slack(self.config.unused_after)
    }

    fn silent_at(&self) -> (Instant, Duration) {
        let silence_max = self.config.silence_max * self.slack(self.config.unused_after / 2);
        (self.at(self.heard.load(Relaxed).max(self.woken.load(Relaxed))) + silence_max, silence_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: ControlConfig = ControlConfig {
        heartbeat: Duration::from_secs(4),
        silence_max: Duration::from_secs(12),
        unused_after: Duration::from_secs(60),
    };

    async fn advance(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    /// How long until the next beat, which is sent then and answered.
    async fn next_beat(pulse: &Pulse) -> u64 {
        let began = Instant::now();
        pulse.until_beat().await;
        pulse.sent_beat();
        pulse.heard();
        began.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_channel_that_is_not_used_beats_less_often_until_it_is() {
        let pulse = Pulse::new(CONFIG, true);
        for _ in 0..14 {
            assert_eq!(next_beat(&pulse).await, 4);
        }
        assert_eq!(next_beat(&pulse).await, 12);
        assert_eq!(next_beat(&pulse).await, 12);
        advance(7).await;
        pulse.heard();
        pulse.heard_frame();
        assert_eq!(next_beat(&pulse).await, 0, "the last one was 7 s ago");
        assert_eq!(next_beat(&pulse).await, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_or_hears_nothing_beats() {
        let pulse = Pulse::new(CONFIG, true);
        for _ in 0..3 {
            advance(1).await;
            pulse.sent_frames();
        }
        assert_eq!(next_beat(&pulse).await, 1, "nothing was heard for 4 s");
        for _ in 0..3 {
            advance(1).await;
            pulse.heard();
            pulse.heard_frame();
        }
        assert_eq!(next_beat(&pulse).await, 1, "nothing was sent for 4 s");
        for _ in 0..8 {
            advance(1).await;
            pulse.heard();
            pulse.sent_frames();
        }
        assert_eq!(next_beat(&pulse).await, 4, "both were, until then");
    }

    #[tokio::test(start_paused = true)]
    async fn a_listener_beats_only_if_asked() {
        let pulse = Pulse::new(CONFIG, false);
        tokio::select! {
            () = pulse.until_beat() => panic!("it was not asked"),
            () = advance(1000) => {}
        }
        pulse.heard_beat();
        pulse.until_beat().await;
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_found_late_only_on_a_channel_that_is_not_used() {
        let pulse = Pulse::new(CONFIG, true);
        let began = Instant::now();
        assert_eq!(pulse.until_silent().await, CONFIG.silence_max);
        assert_eq!(began.elapsed(), CONFIG.silence_max);

        let unused = Pulse::new(CONFIG, true);
        advance(100).await;
        unused.heard();
        let began = Instant::now();
        assert_eq!(unused.until_silent().await, 3 * CONFIG.silence_max);
        assert_eq!(began.elapsed(), 3 * CONFIG.silence_max);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_silent_is_found_soon_after_a_frame_was_sent() {
        let pulse = Pulse::new(CONFIG, true);
        advance(100).await;
        pulse.heard();
        let began = Instant::now();
        let (silence_max, ()) = tokio::join!(pulse.until_silent(), async {
            tokio::time::sleep(Duration::from_secs(10)).await;
            pulse.sent_frames();
        });
        assert_eq!(silence_max, CONFIG.silence_max);
        assert_eq!(began.elapsed(), Duration::from_secs(10) + CONFIG.silence_max);
    }
}
