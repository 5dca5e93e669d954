from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from dev.settings import Setting, settings


class Example(BaseSettings):
    size: int = Field(3, description="how many")
    mode: Literal["a", "b"] = Field("a", description="which")
    key: SecretStr = Field(SecretStr("hidden"), description="a secret")
    name: str = Field(description="who")


def test_a_setting_is_listed_with_its_variable_type_default_and_meaning() -> None:
    assert settings(Example) == [
        Setting("SIZE", "int", "3", "how many"),
        Setting("MODE", "Literal['a', 'b']", "a", "which"),
        Setting("KEY", "SecretStr", "***", "a secret"),
        Setting("NAME", "str", "required", "who"),
    ]
