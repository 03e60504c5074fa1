package sdktest

import (
	"context"
	"fmt"
	"log"
	"net/http/httptest"

	"github.com/anthropics/anthropic-sdk-go"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/option"
	"github.com/openai/openai-go/v3"
	openaioption "github.com/openai/openai-go/v3/option"
	"google.golang.org/genai"

	"github.com/keybroker/keybroker/client"
	"github.com/keybroker/keybroker/internal/app"
	"github.com/keybroker/keybroker/internal/config"
	"github.com/keybroker/keybroker/internal/sandbox"
	"github.com/keybroker/keybroker/internal/testing/canary"
)

// Anthropic's SDK with leased keys. Without a BaseURL it calls Anthropic itself.
func Example_anthropic() {
	broker, provider := start("anthropic", "")
	c, err := client.New(broker, client.WithHolder("invoices"))
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	ai := anthropic.NewClient(
		anthropicoption.WithHTTPClient(c.HTTP("pool")),
		anthropicoption.WithoutEnvironmentDefaults(), // other credentials are not looked for
		anthropicoption.WithMaxRetries(0),            // the transport takes another key by itself
		anthropicoption.WithBaseURL(provider),
	)
	m, err := ai.Messages.New(context.Background(), anthropic.MessageNewParams{
		Model: "claude-haiku-4-5", MaxTokens: 100,
		Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock("Hello"))},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(m.Role, m.StopReason)
	// Output: assistant end_turn
}

// OpenAI's SDK with leased keys, and its own retries: they do as the transport
// says.
func Example_openai() {
	broker, provider := start("openai", "/v1")
	c, err := client.New(broker, client.WithHolder("invoices"))
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	web := c.HTTP("pool")
	web.Transport.(*client.Transport).SDKRetries = true
	ai := openai.NewClient(
		openaioption.WithHTTPClient(web),
		openaioption.WithAPIKey("brokered"), // any text
		openaioption.WithBaseURL(provider),
	)
	a, err := ai.Chat.Completions.New(context.Background(), openai.ChatCompletionNewParams{
		Model: "gpt-4o", MaxCompletionTokens: openai.Int(100),
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Hello")},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(a.Choices[0].FinishReason)
	// Output: stop
}

// Google's SDK for Gemini with leased keys. Its Live API goes past the transport.
func Example_gemini() {
	broker, provider := start("gemini", "")
	c, err := client.New(broker, client.WithHolder("invoices"))
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	ctx := context.Background()
	ai, err := genai.NewClient(ctx, &genai.ClientConfig{
		HTTPClient: c.HTTP("pool"), APIKey: "brokered", Backend: genai.BackendGeminiAPI,
		HTTPOptions: genai.HTTPOptions{BaseURL: provider},
	})
	if err != nil {
		log.Fatal(err)
	}
	r, err := ai.Models.GenerateContent(ctx, "gemini-2.5-flash", genai.Text("Hello"), &genai.GenerateContentConfig{MaxOutputTokens: 100})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(r.Candidates[0].FinishReason)
	// Output: STOP
}

// start runs a provider, and a broker with a key of it, until the program ends.
func start(provider, prefix string) (brokerAddr, providerURL string) {
	front := httptest.NewUnstartedServer(nil)
	cfg, err := config.Parse("example.yaml", fmt.Appendf(nil, `
server: {listen: "127.0.0.1:0", plaintext: true}
store: {type: memory}
providers:
  - name: pool
    type: %s
    base_url: http://%s%s
    keys: [{id: one, key: %s}]
`, provider, front.Listener.Addr(), prefix, firstKey), app.ConfigOptions())
	if err != nil {
		log.Fatal(err)
	}
	front.Config.Handler = sandbox.New(app.SandboxAccounts(cfg), sandbox.Options{})
	front.Start()
	a, err := app.New(context.Background(), cfg, app.Options{Logger: canary.Logger("the broker's log")})
	if err != nil {
		log.Fatal(err)
	}
	go func() { _ = a.Run(context.Background()) }()
	return a.Addr().String(), front.URL + prefix
}
