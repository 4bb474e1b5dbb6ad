"""A Hugging Face Space, or a page of one's own: budgets are moved and the plan is seen at once."""

from precrop.explore import app

demo = app("resnet50")

if __name__ == "__main__":
    demo.launch()
