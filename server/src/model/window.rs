//! Maintenance windows of a group: `mon-fri 22:00-04:00; sat,sun 00:00-24:00`, by the clock of the group's zone.

use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use jiff::Timestamp;

/// Whether jobs may be offered now.
#[derive(Clone, Debug, PartialEq)]
pub enum Gate {
    /// The group has no window.
    Always,
    /// A window is open.
    Open {
        /// When it closes, in seconds since the epoch.
        until: i64,
    },
    /// None is open.
    Shut {
        /// When the next one opens.
        opens: i64,
        /// The same, for people.
        text: String,
    },
}

/// One span of a day; where it ends before it begins, it ends the day after.
#[derive(Clone, Debug, PartialEq)]
struct Span {
    /// From Monday on.
    days: [bool; 7],
    /// Minutes since midnight.
    from: i64,
    /// Minutes since midnight, up to 24:00.
    to: i64,
}

/// The windows of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    spans: Vec<Span>,
}

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const WANT: &str = "want days and times such as \"mon-fri 22:00-04:00\" or \"daily 02:00-05:00\"; several with \";\"";
/// A window that closes in less is as good as closed: a job would be over before the host has begun it.
const SHORTEST: i64 = 60;

impl Window {
    /// Reads windows.
    ///
    /// # Errors
    /// The part that cannot be read, and what is wanted.
    pub fn parse(text: &str) -> Result<Window, String> {
        let spans: Result<Vec<Span>, String> = text.split(';').map(read_span).collect();
        Ok(Window { spans: spans? })
    }

    /// Judges the time `now` by the clock of `zone`; `group` is for the text.
    pub fn gate(&self, zone: &TimeZone, now: i64, group: &str) -> Gate {
        let mut times = self.times(zone, now);
        times.sort_unstable();
        let mut until = now;
        // One that begins where another ends goes on with it.
        for (from, to) in &times {
            if *from <= until && *to > until {
                until = *to;
            }
        }
        if until - now >= SHORTEST {
            return Gate::Open { until };
        }
        let next = times.iter().find(|(from, _)| *from > now).map_or(i64::MAX, |(from, _)| *from);
        let shown = Timestamp::from_second(next).map(|time| time.to_zoned_datetime(zone.clone()));
        let shown = shown.map(|time| time.strftime("%Y-%m-%d %H:%M %Z").to_string()).unwrap_or_default();
        Gate::Shut { opens: next, text: format!("waits for the maintenance window of group {group}: opens {shown}") }
    }

    /// When windows open and close, from the day before `now` on, for more than a week.
    fn times(&self, zone: &TimeZone, now: i64) -> Vec<(i64, i64)> {
        let Ok(today) = Timestamp::from_second(now).map(|time| time.to_zoned_datetime(zone.clone()).date()) else {
            return Vec::new();
        };
        let mut times = Vec::new();
        for offset in -1..=8 {
            let Ok(date) = today.checked_add(jiff::Span::new().days(offset)) else { continue };
            for span in self.spans.iter().filter(|span| span.is_on(date.weekday())) {
                let to = if span.to <= span.from { span.to + 24 * 60 } else { span.to };
                if let (Some(from), Some(to)) = (instant(date, span.from, zone), instant(date, to, zone)) {
                    times.push((from, to));
                }
            }
        }
        times
    }
}

impl Span {
    fn is_on(&self, day: Weekday) -> bool {
        usize::try_from(day.to_monday_zero_offset()).is_ok_and(|place| self.days[place])
    }
}

/// The time at which the clocks of a zone show so many minutes after the midnight that begins a date. Where clocks are set
/// forward over it, it is the time right after.
fn instant(date: Date, minutes: i64, zone: &TimeZone) -> Option<i64> {
    let date = date.checked_add(jiff::Span::new().days(minutes / (24 * 60))).ok()?;
    let (hour, minute) = (i8::try_from(minutes / 60 % 24).ok()?, i8::try_from(minutes % 60).ok()?);
    let time = date.at(hour, minute, 0, 0).to_zoned_datetime(zone.clone()).ok()?;
    Some(time.timestamp().as_second())
}

fn read_span(text: &str) -> Result<Span, String> {
    let wrong = || format!("window \"{}\": {WANT}", text.trim());
    let (days, times) = text.trim().rsplit_once(' ').ok_or_else(wrong)?;
    let (from, to) = times.split_once('-').ok_or_else(wrong)?;
    let (from, to) = (read_time(from).ok_or_else(wrong)?, read_time(to).ok_or_else(wrong)?);
    if from == to || from == 24 * 60 {
        return Err(wrong());
    }
    Ok(Span { days: read_days(days).ok_or_else(wrong)?, from, to })
}

fn read_time(text: &str) -> Option<i64> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str| text.parse::<i64>().ok().filter(|_| text.len() == 2 && !text.starts_with('+'));
    let (hour, minute) = (number(hour)?, number(minute)?);
    ((0..24).contains(&hour) && (0..60).contains(&minute) || (hour, minute) == (24, 0)).then_some(hour * 60 + minute)
}

fn read_days(text: &str) -> Option<[bool; 7]> {
    if text.trim() == "daily" {
        return Some([true; 7]);
    }
    let place = |word: &str| DAYS.iter().position(|day| *day == word.trim());
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (mut day, last) = (place(first)?, place(last)?);
        days[day] = true;
        // `fri-mon` goes over the end of the week.
        while day != last {
            day = (day + 1) % 7;
            days[day] = true;
        }
    }
    Some(days)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(name: &str) -> TimeZone {
        TimeZone::get(name).expect("a zone")
    }

    fn at(text: &str, zone: &TimeZone) -> i64 {
        let time: jiff::civil::DateTime = text.parse().expect("a time");
        time.to_zoned_datetime(zone.clone()).expect("a time there").timestamp().as_second()
    }

    #[test]
    fn a_window_opens_and_closes_by_the_zones_clock() {
        let zone = zone("Europe/Amsterdam");
        // 2026-11-30 is a Monday.
        for (window, now, wanted) in [
            ("mon-fri 22:00-04:00", "2026-11-30 21:59", Err("2026-11-30 22:00")),
            ("mon-fri 22:00-04:00", "2026-11-30 22:00", Ok("2026-12-01 04:00")),
            ("mon-fri 22:00-04:00", "2026-12-01 03:00", Ok("2026-12-01 04:00")),
            ("mon-fri 22:00-04:00", "2026-12-01 03:59:01", Err("2026-12-01 22:00")),
            ("mon-fri 22:00-04:00", "2026-12-05 03:00", Ok("2026-12-05 04:00")),
            ("mon-fri 22:00-04:00", "2026-12-05 23:00", Err("2026-12-07 22:00")),
            ("mon-fri 22:00-04:00", "2026-11-30 03:00", Err("2026-11-30 22:00")),
            ("sat,sun 00:00-24:00", "2026-12-05 10:00", Ok("2026-12-07 00:00")),
            ("daily 02:00-05:00; sun 12:00-14:00", "2026-12-06 06:00", Err("2026-12-06 12:00")),
            ("sat-mon 01:00-02:00", "2026-12-01 12:00", Err("2026-12-05 01:00")),
            // In the night to 2026-03-29 there is no 02:30: the hour is left out.
            ("daily 02:30-04:00", "2026-03-29 01:30", Err("2026-03-29 03:30")),
            // In the night to 2026-10-25 the hour from 02:00 comes twice.
            ("daily 01:00-04:00", "2026-10-25 01:00", Ok("2026-10-25 04:00")),
        ] {
            let found = Window::parse(window).expect(window).gate(&zone, at(now, &zone), "web");
            match (found, wanted) {
                (Gate::Open { until }, Ok(time)) => assert_eq!(until, at(time, &zone), "{window} at {now}"),
                (Gate::Shut { opens, .. }, Err(time)) => assert_eq!(opens, at(time, &zone), "{window} at {now}"),
                (found, wanted) => panic!("{window} at {now}: {found:?}, want {wanted:?}"),
            }
        }
    }

    #[test]
    fn it_says_when_it_opens() {
        let zone = zone("America/New_York");
        let Gate::Shut { text, .. } = Window::parse("daily 02:00-05:00").expect("a window").gate(&zone, 0, "web")
        else {
            panic!("it is open");
        };
        assert_eq!(text, "waits for the maintenance window of group web: opens 1970-01-01 02:00 EST");
    }

    #[test]
    fn a_night_with_a_change_of_clocks_is_as_long_as_it_is() {
        let zone = zone("Europe/Amsterdam");
        let now = at("2026-10-25 01:00", &zone);
        let gate = Window::parse("daily 01:00-04:00").expect("a window").gate(&zone, now, "web");
        assert_eq!(gate, Gate::Open { until: now + 4 * 3600 });
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for bad in
            ["", "mon", "mon 22:00", "mon 22:00-22:00", "xyz 01:00-02:00", "mon 1:00-2:00", "mon 24:00-02:00", ";"]
        {
            assert!(Window::parse(bad).expect_err(bad).contains("want days and times"), "{bad}");
        }
    }
}
