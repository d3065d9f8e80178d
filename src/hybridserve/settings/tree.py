"""The whole tree."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from hybridserve.settings.engine import EngineSection
from hybridserve.settings.guard import GuardSection
from hybridserve.settings.licence import LicenceSection
from hybridserve.settings.model import AcceleratorSection, ModelSection
from hybridserve.settings.scaling import ScalingSection
from hybridserve.settings.server import ServerSection
from hybridserve.settings.telemetry import TelemetrySection

ENV_PREFIX = "HYBRIDSERVE_"
ENV_DELIMITER = "__"


class Settings(BaseSettings):
    """All settings of one deployment. Build it with `load`, which reads file, environment and flags."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_prefix=ENV_PREFIX,
        env_nested_delimiter=ENV_DELIMITER,
        protected_namespaces=(),
    )

    model: ModelSection = Field(default_factory=ModelSection)
    accelerator: AcceleratorSection = Field(default_factory=AcceleratorSection)
    engine: EngineSection = Field(default_factory=EngineSection)
    scaling: ScalingSection = Field(default_factory=ScalingSection)
    licence: LicenceSection = Field(default_factory=LicenceSection)
    guard: GuardSection = Field(default_factory=GuardSection)
    server: ServerSection = Field(default_factory=ServerSection)
    telemetry: TelemetrySection = Field(default_factory=TelemetrySection)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """`load` has merged every source already, so that it can say which one won."""
        return (init_settings,)
