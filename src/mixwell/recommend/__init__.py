"""Which method to use here, and is it worth it? A race, a final and an honest answer."""

from mixwell.recommend.answer import Recommendation
from mixwell.recommend.decision import Contrast, Gap, judge
from mixwell.recommend.driver import recommend

__all__ = ["Contrast", "Gap", "Recommendation", "judge", "recommend"]
