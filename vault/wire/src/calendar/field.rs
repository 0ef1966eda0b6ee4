//! One field of a calendar event: which numbers it takes.

/// Numbers from `start`, up to `stop`, each `repeat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub start: u32,
    pub stop: Option<u32>,
    /// With 0 only `start`.
    pub repeat: u32,
}

impl Part {
    /// This number alone.
    pub const fn only(start: u32) -> Self {
        Self {
            start,
            stop: None,
            repeat: 0,
        }
    }

    /// The same with a range that ends at its last repetition; a number alone if that is its
    /// first.
    pub fn normal(self) -> Self {
        let Some(stop) = self
            .stop
            .filter(|stop| *stop >= self.start && self.repeat > 0)
        else {
            return self;
        };
        match stop - (stop - self.start) % self.repeat {
            stop if stop == self.start => Self::only(self.start),
            stop => Self {
                stop: Some(stop),
                ..self
            },
        }
    }

    /// The least number from `from` on.
    fn at_least(self, from: u32) -> Option<u32> {
        let next = match (from.checked_sub(self.start), self.repeat) {
            (None, _) => self.start,
            (Some(0), _) => from,
            (Some(_), 0) => return None,
            (Some(over), repeat) => self.start + over.div_ceil(repeat) * repeat,
        };
        (self.stop.is_none_or(|stop| next <= stop)).then_some(next)
    }

    /// The same of days counted from the end of a month of `last` days, from its beginning.
    fn turned(self, last: u32) -> Self {
        let first = |day: u32| (last + 1).saturating_sub(day);
        match self.stop {
            Some(stop) => Self {
                start: first(stop),
                stop: Some(first(self.start)),
                ..self
            },
            None => Self {
                start: first(self.start),
                ..self
            },
        }
    }

    /// What systemd demands of a field between `least` and `most`: at least one repetition.
    pub fn is_within(self, least: u32, most: u32, from_end: bool) -> bool {
        // Days beyond the 28th from the end are not in every month.
        let most = if from_end { most - 3 } else { most };
        let inside = |number: u32| (least..=most).contains(&number);
        inside(self.start)
            && self.repeat <= most - least
            && match self.stop {
                Some(stop) => inside(stop) && self.start + self.repeat <= stop,
                None if from_end => self.start >= least + self.repeat,
                None => self.start + self.repeat <= most,
            }
    }
}

/// Parts; with none every number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Field(pub Vec<Part>);

impl Field {
    /// One number alone.
    pub fn only(number: u32) -> Self {
        Self(vec![Part::only(number)])
    }

    /// The least number from `from` on that the field takes.
    pub fn at_least(&self, from: u32) -> Option<u32> {
        match self.0.is_empty() {
            true => Some(from),
            false => self.0.iter().filter_map(|part| part.at_least(from)).min(),
        }
    }

    /// Whether it takes a number.
    pub fn takes(&self, number: u32) -> bool {
        self.at_least(number) == Some(number)
    }

    /// Whether it takes a day of a month of `last` days, counted from its end.
    pub fn takes_from_end(&self, day: u32, last: u32) -> bool {
        self.0.is_empty()
            || self
                .0
                .iter()
                .any(|part| part.turned(last).at_least(day) == Some(day))
    }
}
