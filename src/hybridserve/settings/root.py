"""The class `Settings`, with all sections."""

from pydantic import BaseModel, ConfigDict, Field

from hybridserve.settings.access import AccessSection
from hybridserve.settings.engine import EngineSection
from hybridserve.settings.guard import GuardSection
from hybridserve.settings.license import LicenseSection
from hybridserve.settings.model import AcceleratorSection, ModelSection
from hybridserve.settings.reasoning import ReasoningSection
from hybridserve.settings.scaling import ScalingSection
from hybridserve.settings.server import ServerSection
from hybridserve.settings.telemetry import TelemetrySection
from hybridserve.settings.verify import VerifySection

ENV_PREFIX = "HYBRIDSERVE_"
ENV_DELIMITER = "__"


class Settings(BaseModel):
    """All settings of one deployment. Build it with `load`, which reads file, environment and flags."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), defer_build=True)

    model: ModelSection = Field(default_factory=ModelSection)
    accelerator: AcceleratorSection = Field(default_factory=AcceleratorSection)
    engine: EngineSection = Field(default_factory=EngineSection)
    scaling: ScalingSection = Field(default_factory=ScalingSection)
    license: LicenseSection = Field(default_factory=LicenseSection)
    guard: GuardSection = Field(default_factory=GuardSection)
    access: AccessSection = Field(default_factory=AccessSection)
    reasoning: ReasoningSection = Field(default_factory=ReasoningSection)
    server: ServerSection = Field(default_factory=ServerSection)
    telemetry: TelemetrySection = Field(default_factory=TelemetrySection)
    verify: VerifySection = Field(default_factory=VerifySection)
